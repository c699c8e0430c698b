"""The comparison of averaging methods on digits."""
