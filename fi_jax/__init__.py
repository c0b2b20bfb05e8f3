"""fi_jax: diverse face inpainting led by facial keypoints, in JAX and Flax."""
