"""Stock Hugging Face models: built, taken apart for the pipeline, and their loss."""
