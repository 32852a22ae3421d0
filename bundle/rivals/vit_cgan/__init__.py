"""The unified ViT-cGAN: one training of two vision transformers gives a generator and a classifier."""
