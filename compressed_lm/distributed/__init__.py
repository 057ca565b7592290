"""Joining the processes of a pod or cluster, and noticing when one of them hangs."""
