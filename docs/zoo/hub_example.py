"""One synthetic patch of each class, out of the files of this folder: samples.png. No network is needed.

PYTHONPATH=CLONE_OF_THE_CODE python example.py
"""

from pathlib import Path

import torch

from bundle.data.pictures import save_grid
from bundle.models.adapted import AdaptedModels
from bundle.synthesis.inferers import GuidedLatentInferer

models = AdaptedModels(Path(__file__).resolve().parent).prepare()
labels = torch.arange(len(models.classes))
images = GuidedLatentInferer()(labels, models, labels)  # a seed and a class for each image
save_grid("samples.png", images, synthetic={"Model": models.fingerprint})
print(f"samples.png: {', '.join(models.classes)}")
