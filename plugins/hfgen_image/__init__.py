"""Images: the modality of pictures."""
