"""One session of the Python interface: from an array to areas. The site shows it as a page, and a test runs it."""

# %% [markdown]
# # From an array to areas
#
# Each `# %%` begins a cell of Jupyter, VS Code or Spyder. The session needs a model
# that `cwsam train` made, a scene and reference labels.

# %%
import numpy as np
import rasterio

from cwsam_cli import assess_map, open_checkpoint, polygons

model = open_checkpoint("save/first/model_epoch_best.pth")
print(model.bands, model.classes.names, model.pixel_m)

# %% [markdown]
# Read the scene. A masked array keeps its nodata pixels.

# %%
with rasterio.open("scenes/north.tif") as scene:
    image = scene.read(masked=True)
    place = {"crs": scene.crs, "transform": scene.transform}

# %% [markdown]
# Classify it. The codes are those of the class table, and 255 is nodata.

# %%
mapped = model.classify(image, **place, probabilities=True)
shares = {entry.name: float((mapped.codes == entry.code).mean()) for entry in model.classes.classes}
print(shares)

# %% [markdown]
# Where is the model unsure? The largest probability is the confidence in the class that is shown.

# %%
confidence = mapped.probabilities.max(axis=0)
print("median confidence:", np.median(confidence), "%")

# %% [markdown]
# Polygons of at least one hectare, as a GeoDataFrame.

# %%
frame = polygons(mapped, min_area="1ha")
print(frame.groupby("name")["area_ha"].sum())

# %% [markdown]
# Compare with labels. The figure holds for the labelled ground only; `cwsam sample` makes it one for the whole map.

# %%
mapped.write("map_of_the_array.tif")
agreement = assess_map("map_of_the_array.tif", "landcover.gpkg", class_field="class")
print("agreement:", agreement.metrics.accuracy)
