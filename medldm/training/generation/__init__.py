"""Training of generators: scans on one grid, an autoencoder of volumes, a flow of their latents."""
