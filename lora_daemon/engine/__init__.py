"""The only package that imports torch: bases, adapters, caches, training, generating."""
