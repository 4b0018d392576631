"""Ways to reduce over a group of devices, one file each: which bytes travel between which devices, in which legs."""
