// What lies under the cursor: coordinates, classes and values; and the attributes of the polygon that is clicked.

import {byId, make, numberText, swatch} from './dom.js';

/**
 * Show coordinates and values while the cursor moves.
 * @param {import('ol/Map.js').default} map The map.
 * @param {{layer: Object, pixels: import('./pixels.js').Pixels}[]} rasters Layers of classes and of values.
 * @param {function(number[]): string} placeText Writes coordinates.
 */
export function showUnderCursor(map, rasters, placeText) {
  const values = byId('values');
  let latest = 0;
  const show = async (place) => {
    const turn = ++latest;
    byId('place').textContent = placeText(place);
    const read = await Promise.all(rasters.map(({pixels}) => pixels.valueAt(place).catch(() => null)));
    if (turn === latest) {
      values.replaceChildren(...rasters.map(({layer}, i) => described(layer, read[i])).filter(Boolean));
    }
  };
  map.on(['pointermove', 'click'], (event) => event.dragging || show(event.coordinate));
  map.getTargetElement().addEventListener('pointerleave', () => {
    latest++;
    values.replaceChildren();
  });
}

function described(layer, value) {
  const {kind, name, scale, unit} = layer.get('info');
  if (value === null) {
    return null;
  }
  if (kind === 'classes') {
    const entry = layer.get('table').byValue.get(value);
    return entry ? make('span.value', {title: name}, swatch(entry.color), entry.name) : null;
  }
  const [offset, factor] = scale;
  const shown = factor === 1 ? numberText(value + offset) : stretchedText(value, offset, factor);
  return make('span.value', {title: name}, `${layer.get('info').label} ${shown}${unit}`);
}

/** A value that was stretched to 0-255, with the digits that its steps have. The ends hold all values beyond them. */
function stretchedText(value, offset, factor) {
  const digits = factor > 0 ? Math.min(12, Math.max(0, Math.ceil(-Math.log10(factor)))) : 6;
  const shown = (offset + factor * value).toLocaleString('en', {maximumFractionDigits: digits});
  const beyond = factor > 0 ? {0: '≤ ', 255: '≥ '}[value] : '';
  return `${beyond ?? ''}${shown}`;
}

/**
 * Show the attributes of the feature that is clicked.
 * @param {import('ol/Map.js').default} map The map.
 * @param {import('ol/layer/Vector.js').default[]} layers The layers of features, the lowest first.
 * @param {import('ol/source/Vector.js').default} marked Receives the feature, to mark it.
 */
export function showAttributes(map, layers, marked) {
  const box = byId('feature');
  const select = (feature) => {
    marked.clear();
    box.hidden = !feature;
    if (feature) {
      marked.addFeature(feature);
      const {geometry, ...attributes} = feature.getProperties();
      byId('attributes').replaceChildren(
        ...Object.entries(attributes).map(([key, value]) => make('tr', {}, make('th', {}, key), make('td', {}, valueText(value)))),
      );
    }
  };
  byId('close-feature').addEventListener('click', () => select(null));
  map.on('singleclick', ({coordinate, pixel}) => {
    const shown = [...layers].reverse().filter((layer) => layer.getVisible());
    const inside = shown.map((layer) => findShown(layer, coordinate)).find(Boolean);
    const near = map.forEachFeatureAtPixel(pixel, (feature) => feature, {
      hitTolerance: 6,
      layerFilter: (layer) => shown.includes(layer),
    });
    select(inside ?? near ?? null);
  });
  return () => select(null);
}

function findShown(layer, coordinate) {
  const style = layer.getStyleFunction();
  return layer
    .getSource()
    .getFeaturesAtCoordinate(coordinate)
    .find((feature) => style(feature));
}

function valueText(value) {
  if (typeof value === 'number') {
    return Number.isInteger(value) ? value.toLocaleString('en') : Number(value.toPrecision(6)).toLocaleString('en', {maximumFractionDigits: 6});
  }
  return value === null || value === undefined ? '–' : String(value);
}
