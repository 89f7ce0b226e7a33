"""Objects wherever they lie: disks, S3, web servers, read whole or by ranges, and tables with fixed bytes."""
