"""Multi-process runs: joining the processes of a pod or cluster, and detecting hangs."""
