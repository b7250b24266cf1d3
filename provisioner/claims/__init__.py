"""The front end for PersistentVolumeClaims: a claim becomes an image and a bound PersistentVolume, and ends as it should."""
