"""Deploying to a platform that is reached by HTTP alone."""
