"""`cwsam tile`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cwsam_cli.commands.options import (
    Assets,
    Bands,
    Json,
    NoExternal,
    Overwrite,
    Scenes,
    Scheduler,
    Stack,
    StacQuery,
    Unscale,
    command_line,
    parse_names,
    parse_pairs,
    print_result,
    scenes_of,
)
from cwsam_cli.tile.request import TileFormat, TileRequest


def tile(
    scenes: Scenes,
    output: Annotated[Path, typer.Option("-o", "--output", help="The dataset's folder.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="Class raster in any CRS and resolution, vector file (file.gpkg:layer names a layer), folder of "
            "rasters (by the scenes' names, or else by their ground), pattern (labels/{stem}_lc.tif), or COCO "
            "file of objects in the images' pixels (annotations.json).",
        ),
    ] = None,
    labels_for: Annotated[
        list[str] | None,
        typer.Option("--labels-for", metavar="SCENE=LABELS", help="Labels of one scene; repeatable."),
    ] = None,
    corrections: Annotated[
        Path | None,
        typer.Option(
            "--corrections",
            metavar="FILE",
            help="Vector file whose polygons override the labels. --class-field has their class. An empty field or "
            "`unlabelled` removes the label. Where polygons overlap, the last one wins.",
        ),
    ] = None,
    assets: Assets = None,
    stac_query: StacQuery = None,
    stack: Stack = None,
    crs: Annotated[str | None, typer.Option("--crs", help="Bring scenes to this CRS, such as EPSG:32632.")] = None,
    res: Annotated[
        str | None, typer.Option("--res", metavar="LENGTH", help="Bring scenes to pixels of this size, such as 10m.")
    ] = None,
    unscale: Unscale = False,
    bands: Bands = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Class table: a file or a shipped name. Default: what the labels say."),
    ] = None,
    class_field: Annotated[
        str | None, typer.Option("--class-field", help="Field of the features that holds their class code or name.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help='Use only these features: "year = 2020" (OGR SQL).')
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(
            "--priority",
            metavar="CLASSES",
            help="Classes that win where features overlap, the highest first: road,water (names or codes).",
        ),
    ] = None,
    all_touched: Annotated[
        bool,
        typer.Option(
            "--all-touched", help="Polygons also label pixels that they touch, if no polygon holds their centre."
        ),
    ] = False,
    label_buffer: Annotated[
        str | None,
        typer.Option("--label-buffer", metavar="LENGTH", help="Points and lines label the ground around them: 5m."),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="The configuration that will train: it sets the default of --size.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=8, help="Pixels per side of a tile.", show_default="512")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option("--overlap", min=0, help="Pixels that neighbouring training tiles share.", show_default="0"),
    ] = None,
    split: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--split", metavar="TRAIN VAL TEST", help="Shares of the ground.", show_default="70 15 15"),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the split.", show_default="0")] = None,
    split_by: Annotated[
        str | None,
        typer.Option(
            "--split-by",
            metavar="block|scene|date|LAYER",
            help="What goes to one split together: blocks of ground, scenes, dates, or the polygons of a layer.",
            show_default="block",
        ),
    ] = None,
    split_field: Annotated[
        str | None,
        typer.Option("--split-field", help="Field of that layer that holds train, val or test.", show_default="split"),
    ] = None,
    block_size: Annotated[
        str | None,
        typer.Option(
            "--block-size",
            metavar="LENGTH",
            help="Side of a block: tiles, px, m or km. Default: 1 to 8 tiles, by the number of tiles.",
        ),
    ] = None,
    buffer: Annotated[
        str | None,
        typer.Option(
            "--buffer",
            metavar="LENGTH",
            help="Distance between tiles of different splits: tiles, px, m, km or 0. Default: 1tile, or less if half "
            "of the training ground would be lost.",
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Folds for cross-validation instead of a validation split.")
    ] = None,
    min_valid: Annotated[
        float | None,
        typer.Option("--min-valid", metavar="SHARE", help="Leave out tiles with less data: 0 to 1.", show_default="0"),
    ] = None,
    min_labelled: Annotated[
        float | None,
        typer.Option(
            "--min-labelled", metavar="SHARE", help="Leave out tiles with fewer labels: 0 to 1.", show_default="0"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Most tiles. Each split keeps its share, drawn at random.")
    ] = None,
    focus: Annotated[
        list[str] | None,
        typer.Option(
            "--focus",
            metavar="CLASS=N",
            help="Add N training tiles at other offsets that show a rare class; repeatable.",
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option("--preview", metavar="PNG", help="Draw a sheet of some tiles of each split with their labels."),
    ] = None,
    overlaps_to: Annotated[
        Path | None,
        typer.Option(
            "--overlaps-to",
            metavar="GPKG",
            help="If polygons of different classes overlap, write the overlaps to this GeoPackage. The command still "
            "fails.",
        ),
    ] = None,
    format: Annotated[
        TileFormat | None,
        typer.Option(
            "--format",
            help="gtiff copies pixels into GeoTIFFs. windows writes VRTs that point into the scenes, which must stay "
            "where they are.",
            show_default="gtiff",
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that read and write.")] = 1,
    scheduler: Scheduler = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add scenes to a dataset that exists. Its tiles and splits stay.")
    ] = False,
    no_external: NoExternal = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Cut scenes and labels into training tiles.

    \b
    $ cwsam tile scenes/ --labels landcover.tif -o dataset/ --bands 4,3,2
    $ cwsam tile 's2/*_B*.jp2' --stack '{scene}_{band}.jp2' --labels landcover.tif -o dataset/
    $ cwsam tile scene.tif --labels fields.gpkg --class-field crop --classes crops.yaml -o dataset/
    $ cwsam tile new.tif --labels new_landcover.tif -o dataset/ --append

    All scenes need the same bands and dtype. Each may have its own CRS and pixel size.
    Labels are resampled to each scene's pixel grid. Scenes are resampled only by --stack, --res
    and --crs: means of smaller pixels, bilinear between larger ones.

    Training, validation and test ground are separate blocks with a buffer between them. Only
    training and validation tiles are left out for the buffer. tiles.gpkg in the dataset shows
    the blocks in QGIS. With --split-by date, splits share ground, and the test measures other
    dates. A date is the first one in the file's name (20240115, 2024-01-15, 2024015), or in its
    tags. --folds 5 writes a column fold to tiles.gpkg. `cwsam train --set train_dataset.fold=2`
    then validates on fold 2, and trains on the tiles of other folds beyond the buffer.

    For a second round of training, correct a map with polygons, and keep the former split:
    --labels map.tif --corrections fixed.gpkg --class-field class --split-by first/tiles.gpkg.
    Tiles that do not lie inside those of one split are then left out.

    --append uses the class table, bands and options of the dataset again, so it needs scenes and
    labels only (also --class-field for features, and --stack or --assets if the first run had it).
    Scenes that the dataset has already are skipped. New ground goes to the split of the tiles whose
    ground it shows, and new tiles within the buffer of other splits are left out. If the command is
    killed, the dataset is unchanged, and the same command continues.

    With --scheduler, the workers of a Dask cluster read labels and write tiles. They need the
    scenes, the labels and the output's folder at the same paths; see docs/cluster.md.

    Without --classes, names and colours come from the class table, the category names and the
    palette of a label raster, or from the values of the class field.
    """
    from cwsam_cli.config.sizes import length_m
    from cwsam_cli.raster.sources.views import make_views
    from cwsam_cli.tile.lengths import parse_length
    from cwsam_cli.tile.request import parse_focus
    from cwsam_cli.tile.selection import Selection

    given = {
        "bands": parse_names(bands) or None,
        "size": size or (_input_size(config) if config else None),
        "overlap": overlap,
        "shares": split,
        "seed": seed,
        "block_size": parse_length(block_size, "--block-size") if block_size else None,
        "buffer": parse_length(buffer, "--buffer", zero=True) if buffer else None,
        "split_by": split_by,
        "split_field": split_field,
        "folds": folds,
        "format": format,
        "min_valid": min_valid,
        "min_labelled": min_labelled,
        "crs": crs,
        "pixel_m": length_m(res, "--res") if res else None,
        "unscale": unscale or None,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if append:
        from cwsam_cli.dataset.manifest import read_manifest
        from cwsam_cli.tile.append.options import same_options
        from cwsam_cli.tile.append.replacement import restore

        restore(output.resolve())
        chosen = same_options(chosen, output, read_manifest(output))
    view = {name: chosen.pop(name) for name in ("crs", "pixel_m", "unscale") if name in chosen}
    shares_of_tile = {name: chosen.pop(name) for name in ("min_valid", "min_labelled") if name in chosen}
    request = TileRequest(
        scenes=tuple(make_views(scenes_of(scenes, assets, stac_query)[0], stack=stack, **view)),
        labels=labels,
        labels_for=tuple(parse_pairs(labels_for, "--labels-for", "scene.tif=labels.tif")),
        output=output,
        corrections=corrections,
        classes=classes,
        class_field=class_field,
        where=where,
        priority=tuple(name.strip() for name in priority.split(",")) if priority else (),
        all_touched=all_touched,
        label_buffer_m=length_m(label_buffer, "--label-buffer") if label_buffer else 0.0,
        selection=Selection(limit=limit, **shares_of_tile),
        focus=parse_focus(focus or ()),
        preview=preview,
        overlaps_to=overlaps_to,
        workers=workers,
        scheduler=scheduler or "",
        append=append,
        overwrite=overwrite,
        command=command_line(),
        **chosen,
    )
    from cwsam_cli.tile.pipeline import tile_scenes  # rasterio and geopandas are slow to import
    from cwsam_cli.tile.summary import summary_text

    manifest = tile_scenes(request)
    counts = ", ".join(f"{count} {name}" for name, count in manifest.tiles.items())
    bands = f"{len(manifest.bands)} bands" if len(manifest.bands) > 1 else "1 band"
    text = (
        f"{output}: {counts} tiles of {request.size} × {request.size} pixels, {bands}, {len(manifest.taxonomy)} classes"
    )
    print_result(manifest, f"{text}\n\n{summary_text(manifest)}", as_json=as_json)


def _input_size(config: str) -> int:
    """Return the side of a model's input in pixels."""
    from cwsam_cli.config.load import load_config

    return load_config(config).model.args.inp_size
