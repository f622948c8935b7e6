"""Synthetic pages and crawls for the corpus pipeline, and what is measured on them."""
