"""The world: procedurally generated pedestrians, seen by a network of cameras, written to disk like a real archive.

Read in this order: `chance` (random numbers without a state), `factors` (a table of named causes), `wardrobe` (who
somebody is and wears), `cameras` (who looks, when and how), `scenes` (backgrounds and occluders), `body` (a body
of quadrics), `rays` (what each sample sees), `textures` (the colour of a point), `light`, `sensor` (from light to
pixels), `render` (all of these put together), `archives` (who is seen how often, and how files are called), `city`
(people x cameras, on disk).
"""
