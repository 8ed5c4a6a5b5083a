"""What every export does at its start, done by its import: loading compiled kernels takes 0.4 s.

For the process that forks for `pedsup_export` (programs.py).
"""

from __future__ import annotations

import numpy as np

from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup_export.types.quantize import grid_share, quantize_rows

_ROWS = np.ones((1, 256), np.float32)
for _dtype in ("F32", "BF16"):
    grid_share(_ROWS, _dtype)
for _name in ("Q8_0", "Q4_K", "Q6_K"):
    quantize_rows(_ROWS, BY_NAME[_name])
