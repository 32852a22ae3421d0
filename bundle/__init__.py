"""HistoDiffusion as a MONAI bundle: synthetic augmentation for computational pathology."""

HISTO = True  # by which configs tell this package from others that are called `bundle`
