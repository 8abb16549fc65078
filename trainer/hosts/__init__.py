"""The machines of a job: how its processes meet, what they must agree on, and whose disks hold what."""
