"""The rooms of the pipeline. Each has one way in and one way out; they never import one another."""
