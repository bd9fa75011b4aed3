"""Fast readings of stored forms. Each does what the plain torch of the forms does, in fewer and larger steps.

On the processor: `loops` and `sums` are compiled by numba; `decoders` put them together to read the rows of an
expression, `scorers` for inner products with all of them. On a GPU: `pieces` say what one kernel has to know of a
table, `triton` has the kernels, `gpu` calls them. `watch` keeps what either prepares while the numbers hold.
"""
