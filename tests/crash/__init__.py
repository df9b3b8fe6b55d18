"""Faults on purpose: processes that are killed or stopped, replies that are lost, disks that are full."""
