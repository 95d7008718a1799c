"""What happens to a whole batch: closing, operators' commands, replay, reconcile, how many workers there are."""
