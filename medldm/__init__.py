"""medldm: restore MRI and CT scans with measurement-aware latent diffusion."""
