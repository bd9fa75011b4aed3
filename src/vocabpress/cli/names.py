"""The values of options, repeated here so that help needs no import. `tests/test_cli_start.py` compares them."""

METHODS = (
    "svd", "autoencoder", "groupreduce", "discblock", "lighttoken", "kronecker", "uniform", "product", "residual",
    "compositional", "tcq", "fastscan", "binary",
)  # fmt: skip
GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
TASKS = (
    "reconstruction", "mlm", "clm", "generation", "sts", "retrieval", "similarity", "agreement", *GLUE, "squad",
    "squad2",
)  # fmt: skip
PRESETS = ("kronecker-8x", "kronecker-20x")
BODIES = ("trellis", "int8")
OBJECTIVES = ("relative", "kroneckerbert")
DTYPES = ("float32", "bfloat16", "float16")
