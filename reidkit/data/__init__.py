"""From a folder of images to batches: records and layouts (what is where), images (pixels in RAM), samplers (order)."""
