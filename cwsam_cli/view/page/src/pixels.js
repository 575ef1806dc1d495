// Reads values of rasters for the numbers on the page: one pixel under the cursor, or the classes of an area.

import {fromUrl} from 'geotiff';

const BLOCK = 128; // pixels per side that are read at once for the cursor
const MOST_PIXELS = 2 ** 22; // pixels that are counted at once; larger areas are counted in an overview

export class Pixels {
  /** @param {{url: string, area: ?Object}} layer A raster layer. */
  constructor(layer) {
    this.layer = layer;
    this.levels = openLevels(layer.url);
    this.block = null;
  }

  /**
   * @param {number[]} place Coordinates.
   * @return {Promise<?number>} The value of the pixel there, null outside and where there is no data.
   */
  async valueAt(place) {
    const [{image, grid}] = await this.levels;
    const [column, row] = grid.pixelAt(place).map(Math.floor);
    if (column < 0 || row < 0 || column >= grid.width || row >= grid.height) {
      return null;
    }
    const left = column - (column % BLOCK);
    const top = row - (row % BLOCK);
    if (this.block?.left !== left || this.block?.top !== top) {
      const window = [left, top, Math.min(left + BLOCK, grid.width), Math.min(top + BLOCK, grid.height)];
      this.block = {left, top, width: window[2] - left, bands: image.readRasters({window})};
    }
    const {width, bands} = this.block;
    const read = await bands;
    const index = (row - top) * width + column - left;
    const {nodata, alpha} = this.layer;
    const hidden = read[0][index] === nodata || (alpha && read[alpha - 1][index] === 0);
    return hidden ? null : read[0][index];
  }

  /**
   * Count the pixels of each value inside an extent.
   * @param {number[]} extent West, south, east and north.
   * @return {Promise<{amounts: Float64Array, exact: boolean}>} By value: m², or pixels if they have no size.
   */
  async count(extent) {
    const amounts = new Float64Array(256);
    const part = await this.choose(extent);
    if (!part) {
      return {amounts, exact: true};
    }
    const {image, grid, window} = part;
    const [left, top, right, bottom] = window;
    const [values] = await image.readRasters({window, samples: [0]});
    const {columns, rows} = grid.factor;
    let index = 0;
    for (let row = top; row < bottom; row++) {
      const areaAt = pixelAreas(this.layer.area, (row + 0.5) * rows - 0.5);
      for (let column = left; column < right; column++) {
        amounts[values[index++]] += areaAt((column + 0.5) * columns - 0.5) * columns * rows;
      }
    }
    return {amounts, exact: part.level === 0};
  }

  /** Choose the finest level of which an extent has not too many pixels, and its window; null if there are none. */
  async choose(extent) {
    const levels = await this.levels;
    const windows = levels.map(({grid}) => grid.windowOf(extent));
    const sizes = windows.map(([left, top, right, bottom]) => Math.max(0, right - left) * Math.max(0, bottom - top));
    const found = sizes.findIndex((size) => size <= MOST_PIXELS);
    const level = found < 0 ? levels.length - 1 : found;
    return sizes[level] ? {...levels[level], window: windows[level], level} : null;
  }
}

/**
 * Count the pixels of an extent in which two maps differ, where both have a class.
 * @param {Pixels} one A map.
 * @param {Pixels} other A map with the same class table.
 * @param {number[]} extent West, south, east and north.
 * @return {Promise<?number>} Their share, 0 to 1; null if the maps have different grids, or no pixel in common.
 */
export async function countDifference(one, other, extent) {
  const parts = [await one.choose(extent), await other.choose(extent)];
  if (!parts.every(Boolean) || !parts[0].grid.equals(parts[1].grid)) {
    return null;
  }
  const read = await Promise.all(parts.map(({image, window}) => image.readRasters({window, samples: [0]})));
  const [[left], [right]] = read;
  let both = 0;
  let different = 0;
  for (let i = 0; i < left.length; i++) {
    if (left[i] !== one.layer.nodata && right[i] !== other.layer.nodata) {
      both++;
      different += left[i] !== right[i];
    }
  }
  return both ? different / both : null;
}

async function openLevels(url) {
  const tiff = await fromUrl(url);
  const images = await Promise.all(Array.from({length: await tiff.getImageCount()}, (_, i) => tiff.getImage(i)));
  const shown = images.filter((image) => !((image.fileDirectory.getValue('NewSubfileType') ?? 0) & 4));
  shown.sort((one, other) => other.getWidth() - one.getWidth());
  return shown.map((image) => ({image, grid: new Grid(image, shown[0])}));
}

class Grid {
  constructor(image, finest) {
    [this.west, this.north] = finest.getOrigin();
    const [right, down] = finest.getResolution();
    this.width = image.getWidth();
    this.height = image.getHeight();
    this.factor = {columns: finest.getWidth() / this.width, rows: finest.getHeight() / this.height};
    this.right = right * this.factor.columns;
    this.down = down * this.factor.rows;
  }

  pixelAt([x, y]) {
    return [(x - this.west) / this.right, (y - this.north) / this.down];
  }

  equals(other) {
    return ['west', 'north', 'width', 'height', 'right', 'down'].every((key) => this[key] === other[key]);
  }

  windowOf([west, south, east, north]) {
    const [left, top] = this.pixelAt([west, north]);
    const [right, bottom] = this.pixelAt([east, south]);
    return [
      Math.max(0, Math.round(left)),
      Math.max(0, Math.round(top)),
      Math.min(this.width, Math.round(right)),
      Math.min(this.height, Math.round(bottom)),
    ];
  }
}

/**
 * Areas of the pixels of a row, between the places where the page's data has them.
 * @param {?{rows: number[], columns: number[], m2: number[][]}} area Areas of some pixels.
 * @param {number} row A row of the finest level; whole numbers are centres of pixels.
 * @return {function(number): number} Area in m² by column, 1 if pixels have no size.
 */
function pixelAreas(area, row) {
  if (!area) {
    return () => 1;
  }
  const {rows, columns, m2} = area;
  const [upper, share] = between(rows, row);
  const lower = Math.min(upper + 1, rows.length - 1);
  const values = m2[upper].map((value, i) => value + share * (m2[lower][i] - value));
  if (columns.length === 1) {
    return () => values[0];
  }
  return (column) => {
    const [left, part] = between(columns, column);
    return values[left] + part * (values[Math.min(left + 1, columns.length - 1)] - values[left]);
  };
}

function between(nodes, place) {
  if (nodes.length === 1) {
    return [0, 0];
  }
  const step = (nodes[nodes.length - 1] - nodes[0]) / (nodes.length - 1);
  const index = Math.min(Math.max(0, Math.floor((place - nodes[0]) / step)), nodes.length - 2);
  return [index, (place - nodes[index]) / (nodes[index + 1] - nodes[index])]; // nodes are rounded to whole numbers
}
