"""HistoDiffusion as a MONAI bundle: synthetic augmentation for computational pathology."""

histodiffusion = True  # what configs import: of another package called `bundle` the error names the file
