"""From positions in the data order to tensors."""
