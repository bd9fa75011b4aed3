"""Fast readings of stored forms. Each does what the plain torch of the forms does, in fewer and larger steps.

`loops` are compiled by numba, `decoders` put them together to read the rows of an expression, `scorers` for inner
products with all of them; `watch` keeps what either prepares while the numbers it was made of hold.
"""
