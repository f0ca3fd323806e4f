"""What a diffusion model says as a judge: of models, and of whether a prompt fits at all."""
