// The page of `cwsam view`: a map of the layers that layers.json names.

import Map from 'ol/Map.js';
import View from 'ol/View.js';
import ScaleLine from 'ol/control/ScaleLine.js';
import Zoom from 'ol/control/Zoom.js';
import {getHeight, getWidth} from 'ol/extent.js';
import VectorLayer from 'ol/layer/Vector.js';
import VectorSource from 'ol/source/Vector.js';
import {Circle, Stroke, Style} from 'ol/style.js';
import {ClassTable} from './classes.js';
import {bindKeys, readPlace, setUpTheme, toggleTheme} from './controls.js';
import {byId, make, numberText} from './dom.js';
import {showAttributes, showUnderCursor} from './inspect.js';
import {loadFeatures, makeLayer} from './layers.js';
import {Legend} from './legend.js';
import {showLayers} from './panel.js';
import {countDifference, Pixels} from './pixels.js';
import {makeLonLat, makeProjection} from './projection.js';
import {Swipe} from './swipe.js';

const QUIET_MS = 150; // the view rests so long before numbers and polygons are read again
const CLOSEST = 32; // screen pixels per side of a raster's pixel at the largest zoom

/** Show the page's data. */
async function start() {
  const data = await (await fetch('layers.json')).json();
  document.title = `${data.title} – cwsam view`;
  byId('title').textContent = data.title;
  const lonLat = makeLonLat(data.crs);
  const tables = data.tables.map((table) => new ClassTable(table));
  const projection = makeProjection(data.crs, lonLat);
  const layers = data.layers.map((layer) => makeLayer(layer, projection, tables));
  const marked = new VectorSource();
  const map = makeMap(data, projection, [...layers, markingLayer(marked)]);
  const fit = () => map.getView().fit(data.extent, {padding: [56, 24, 56, 24]});
  fit();

  const notes = showLayers(byId('layers'), layers);
  layers.forEach((layer) => watchErrors(layer, notes.get(layer)));
  const swipe = new Swipe(map, layers, data.compare);
  const rasters = ['classes', 'values']
    .flatMap((kind) => layers.filter((layer) => layer.get('info').kind === kind))
    .map((layer) => ({layer, pixels: new Pixels(layer.get('info'))}));
  showUnderCursor(map, rasters, (place) => placeText(place, data.crs, lonLat));
  const featureLayers = layers.filter((layer) => layer instanceof VectorLayer);
  const closeFeature = showAttributes(map, featureLayers, marked);
  const legends = tables.map((table) => new Legend(byId('legends'), table, legendTitle(table, tables, layers)));
  refreshWhenResting(map, rasters, legends, featureLayers, notes, swipe);
  setUpGoto(map, lonLat, data);
  setUpTheme();

  const actions = {
    s: () => swipe.toggle(),
    f: fit,
    g: () => byId('goto').focus(),
    d: toggleTheme,
    '+': () => zoom(map, 1),
    '-': () => zoom(map, -1),
    '?': () => byId('help').showModal(),
    Escape: closeFeature,
  };
  layers.slice(0, 9).forEach((layer, i) => (actions[i + 1] = () => layer.setVisible(!layer.getVisible())));
  bindKeys(actions);
  byId('swipe').addEventListener('click', actions.s);
  byId('swipe').hidden = layers.length < 2;
  byId('fit').addEventListener('click', fit);
  byId('show-help').addEventListener('click', actions['?']);
  byId('fold').addEventListener('click', () => {
    document.body.classList.toggle('folded');
    map.updateSize();
  });
  if (data.compare.length) {
    swipe.toggle();
  }
  map.once('rendercomplete', () => (document.documentElement.dataset.ready = ''));
  map.render();
  globalThis.viewer = {map, layers, tables, swipe}; // for the browser's console and for tests
}

function makeMap(data, projection, layers) {
  const widest = Math.max(getWidth(data.extent), getHeight(data.extent));
  return new Map({
    target: 'map',
    layers,
    controls: [new Zoom({zoomInTipLabel: 'Zoom in (+)', zoomOutTipLabel: 'Zoom out (-)'})].concat(
      data.crs.units === 'pixels' ? [] : [new ScaleLine({minWidth: 90})],
    ),
    view: new View({
      projection,
      center: [0, 0],
      maxResolution: widest / 64,
      minResolution: data.finest / CLOSEST,
      enableRotation: false,
      constrainOnlyCenter: true,
      extent: data.extent,
      showFullExtent: true,
    }),
  });
}

function markingLayer(source) {
  const line = (color, width) => new Stroke({color, width});
  const ring = (stroke) => new Circle({radius: 9, stroke});
  const style = [line('#fff', 5), line('#111', 2)].map((stroke) => new Style({stroke, image: ring(stroke)}));
  return new VectorLayer({source, style, zIndex: 1});
}

function watchErrors(layer, note) {
  const source = layer.getSource();
  source.on('change', () => {
    if (source.getState() === 'error') {
      note.textContent = 'Cannot be read. The web server needs range requests.';
      note.classList.add('warning');
    }
  });
}

function legendTitle(table, tables, layers) {
  const named = layers.filter((layer) => layer.get('table') === table).map((layer) => layer.get('info').name);
  return tables.length > 1 ? `Classes of ${named.join(', ')}` : 'Classes';
}

/** Count classes and load polygons again after the view or the choice of layers has changed. */
function refreshWhenResting(map, rasters, legends, featureLayers, notes, swipe) {
  let timer = 0;
  let running = new AbortController();
  const refresh = async () => {
    running.abort();
    const {signal} = (running = new AbortController());
    const extent = map.getView().calculateExtent(map.getSize());
    for (const layer of featureLayers.filter((each) => each.getVisible())) {
      const complete = await loadFeatures(layer, extent, signal);
      notes.get(layer).textContent = complete ? layer.get('info').note : 'Too many polygons in view: zoom in';
      notes.get(layer).classList.toggle('warning', !complete);
    }
    for (const legend of legends) {
      const counted = await countShown(rasters.filter(({layer}) => layer.get('table') === legend.table), swipe, extent);
      if (signal.aborted) {
        return;
      }
      legend.showAmounts(counted.maps, counted.difference);
    }
    document.documentElement.dataset.counted = '';
  };
  const later = () => {
    clearTimeout(timer);
    delete document.documentElement.dataset.counted;
    timer = setTimeout(refresh, QUIET_MS);
  };
  map.on('moveend', later);
  [...rasters.map(({layer}) => layer), ...featureLayers].forEach((layer) => layer.on('change:visible', later));
  swipe.addEventListener('change', later);
  later();
}

/** Count the classes of the uppermost visible map, or those of both maps that are compared, and how far they differ. */
async function countShown(rasters, swipe, extent) {
  const sides = swipe.active ? swipe.sides.map((side) => rasters.find(({layer}) => layer === side)) : [];
  const isPair = sides.length === 2 && sides.every(Boolean) && sides[0] !== sides[1];
  const shown = isPair ? sides : rasters.filter(({layer}) => layer.getVisible()).slice(-1);
  const maps = [];
  for (const {layer, pixels} of shown) {
    const {name, area} = layer.get('info');
    maps.push({...(await pixels.count(extent)), areas: Boolean(area), name});
  }
  return {maps, difference: isPair ? await countDifference(sides[0].pixels, sides[1].pixels, extent) : null};
}

function placeText([x, y], crs, lonLat) {
  const digits = crs.units === 'degrees' ? 6 : crs.units === 'pixels' ? 0 : 1;
  const own = `${x.toFixed(digits)}, ${y.toFixed(digits)}`;
  if (!lonLat || crs.units === 'degrees') {
    return own;
  }
  const [lon, lat] = lonLat.inverse([x, y]);
  const degrees = (value, letters) => `${Math.abs(value).toFixed(5)}° ${letters[value < 0 ? 1 : 0]}`;
  return `${own}  ·  ${degrees(lat, 'NS')}, ${degrees(lon, 'EW')}`;
}

function setUpGoto(map, lonLat, data) {
  const field = byId('goto');
  field.closest('form').addEventListener('submit', (event) => {
    event.preventDefault();
    const place = readPlace(field.value, lonLat, data.extent);
    field.classList.toggle('wrong', !place);
    if (place) {
      const view = map.getView();
      view.animate({center: place, resolution: Math.min(view.getResolution(), 4 * data.finest), duration: 250});
      field.blur();
    }
  });
}

function zoom(map, levels) {
  const view = map.getView();
  view.animate({zoom: view.getZoom() + levels, duration: 150});
}

start().catch((error) => {
  byId('message').textContent = location.protocol === 'file:'
    ? 'Browsers read no maps from file: addresses. Serve this folder with a web server that has range requests.'
    : `The page cannot show the layers: ${error.message}`;
  byId('message').hidden = false;
  console.error(error);
});
