"""HistoDiffusion as a MONAI bundle: synthetic augmentation for computational pathology."""
