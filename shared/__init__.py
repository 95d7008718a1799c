"""Ruum Batch: the product. The rooms, the rules they keep, and the ports they speak through."""
