import os

# Triton reads it when a kernel is defined: without a GPU, numpy runs the kernels.
os.environ["TRITON_INTERPRET"] = "1"
