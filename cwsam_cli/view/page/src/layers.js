// Makes the layers of the map from the page's data.

import {deserialize} from 'flatgeobuf/lib/mjs/ol.js';
import VectorLayer from 'ol/layer/Vector.js';
import WebGLTileLayer from 'ol/layer/WebGLTile.js';
import GeoTIFF from 'ol/source/GeoTIFF.js';
import VectorSource from 'ol/source/Vector.js';
import {Circle, Fill, Stroke, Style} from 'ol/style.js';

const MOST_FEATURES = 20_000; // more in view are not drawn, because a browser then takes seconds

/**
 * @param {Object} layer A layer of the page's data.
 * @param {import('ol/proj/Projection.js').default} projection The map's projection.
 * @param {import('./classes.js').ClassTable[]} tables The class tables.
 * @return {import('ol/layer/Layer.js').default} The layer, which knows its data as `info`.
 */
export function makeLayer(layer, projection, tables) {
  const table = layer.table === null ? null : tables[layer.table];
  const made = layer.kind === 'polygons' ? polygons(layer, table) : raster(layer, projection, table);
  made.set('info', layer);
  made.set('table', table);
  return made;
}

function raster(layer, projection, table) {
  const classes = layer.kind === 'classes';
  const source = new GeoTIFF({
    sources: [
      {
        url: layer.url,
        bands: layer.bands,
        min: classes ? 0 : layer.min,
        max: classes ? 255 : layer.max,
        ...(layer.nodata === null ? {} : {nodata: layer.nodata}),
      },
    ],
    projection,
    interpolate: !classes,
    transition: 0,
  });
  const style = classes ? classStyle(table) : layer.alpha ? imageStyle(layer) : undefined;
  const made = new WebGLTileLayer({source, visible: layer.visible, style});
  if (classes) {
    table.addEventListener('change', () => made.setStyle(classStyle(table)));
  }
  return made;
}

function classStyle(table) {
  return {color: ['palette', ['*', ['band', 1], 255], table.palette()]};
}

/** Without this style, OpenLayers adds an opaque band to some files and ignores their own alpha band. */
function imageStyle({bands, alpha}) {
  const last = bands.indexOf(alpha) + 1;
  const colors = last === 2 ? [1, 1, 1] : [1, 2, 3];
  return {color: ['color', ...colors.map((band) => ['*', ['band', band], 255]), ['band', last]]};
}

function polygons(layer, table) {
  const source = new VectorSource();
  const made = new VectorLayer({source, visible: layer.visible});
  made.set('filled', layer.filled);
  const restyle = () => made.setStyle(featureStyle(layer, table, made.get('filled')));
  restyle();
  table?.addEventListener('change', restyle);
  made.on('change:filled', restyle);
  return made;
}

function featureStyle(layer, table, filled) {
  const styles = new Map();
  return (feature) => {
    const code = table ? feature.get(layer.field) : null;
    if (table?.hidden.has(code)) {
      return undefined;
    }
    if (!styles.has(code)) {
      styles.set(code, makeStyle(table?.byCode.get(code)?.color ?? '#e0218a', filled));
    }
    return styles.get(code);
  };
}

function makeStyle(color, filled) {
  const stroke = new Stroke({color: 'rgba(0, 0, 0, 0.5)', width: filled ? 0.8 : 2.2});
  const fill = filled ? new Fill({color}) : undefined;
  const outline = new Style({stroke, fill, image: dot(color)});
  return filled ? outline : [outline, new Style({stroke: new Stroke({color, width: 1.1})})];
}

function dot(color) {
  return new Circle({radius: 5, fill: new Fill({color}), stroke: new Stroke({color: '#fff', width: 1.5})});
}

/**
 * Load the features of a layer that lie in view, or all features of a small layer once.
 * @param {VectorLayer} layer The layer.
 * @param {number[]} extent West, south, east and north of the view.
 * @param {AbortSignal} signal Ends it when the view has moved on.
 * @return {Promise<boolean>} Whether all of them are there; if not, none is.
 */
export async function loadFeatures(layer, extent, signal) {
  const {url, small} = layer.get('info');
  if (small && layer.get('loaded')) {
    return true;
  }
  const features = [];
  for await (const feature of small ? deserialize((await fetch(url)).body) : deserialize(url, {rect: rectangle(extent)})) {
    if (signal.aborted) {
      return true;
    }
    features.push(feature);
    if (features.length > MOST_FEATURES) {
      break;
    }
  }
  const complete = features.length <= MOST_FEATURES;
  layer.getSource().clear(true);
  if (complete) {
    layer.getSource().addFeatures(features);
  }
  layer.set('loaded', true);
  return complete;
}

function rectangle([minX, minY, maxX, maxY]) {
  return {minX, minY, maxX, maxY};
}
