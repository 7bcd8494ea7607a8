"""`judge_lightly.py MODULE...`: judge a phantom's lung mask; print how many networks judged, then which modules that loaded."""

import sys

from pipeline.phantom import chest
from pipeline.study.lungs import judged_masks
from pipeline.study.lungs.network import network

phantom = chest(4, "healthy", matrix=128, slices=3)
judged_masks(phantom.hu, phantom.z_mm, phantom.spacing_mm)
print(network.cache_info().currsize, [name for name in sys.argv[1:] if name in sys.modules])
