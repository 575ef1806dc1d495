// Swipe: one layer left of a line that can be moved, another one right of it.

import {byId, make} from './dom.js';

const STEP = 2; // per cent of the map's width that an arrow key moves the line

/** Tells of a change of the two layers, or when it begins or ends, by the event `change`. */
export class Swipe extends EventTarget {
  /**
   * @param {import('ol/Map.js').default} map The map.
   * @param {import('ol/layer/Layer.js').default[]} layers The layers that can be compared, the lowest first.
   * @param {number[]} sides Numbers of the layers to begin with; empty for those that seem best.
   */
  constructor(map, layers, sides) {
    super();
    this.map = map;
    this.layers = layers;
    this.position = 50;
    this.line = byId('swipe-line');
    this.choices = [byId('swipe-left'), byId('swipe-right')];
    const preferred = sides.length ? sides : preferredSides(layers);
    this.choices.forEach((choice, side) => {
      layers.forEach((layer, i) => choice.append(make('option', {value: i}, layer.get('info').name)));
      choice.value = preferred[side];
      choice.addEventListener('change', () => this.show());
    });
    for (const layer of layers) {
      layer.on('prerender', (event) => this.clip(layer, event));
      layer.on('postrender', (event) => this.unclip(layer, event));
    }
    this.line.addEventListener('pointerdown', (event) => this.line.setPointerCapture(event.pointerId));
    this.line.addEventListener('pointermove', (event) => {
      if (this.line.hasPointerCapture(event.pointerId)) {
        const box = map.getTargetElement().getBoundingClientRect();
        this.moveTo((100 * (event.clientX - box.left)) / box.width);
      }
    });
    this.line.addEventListener('keydown', (event) => {
      const steps = {ArrowLeft: -STEP, ArrowRight: STEP, Home: -100, End: 100}[event.key];
      if (steps) {
        this.moveTo(this.position + steps);
        event.preventDefault();
        event.stopPropagation();
      }
    });
  }

  get active() {
    return document.body.classList.contains('swiping');
  }

  /** Begin or end it. */
  toggle() {
    if (this.layers.length < 2) {
      return;
    }
    document.body.classList.toggle('swiping');
    byId('swipe').setAttribute('aria-pressed', this.active);
    this.show();
    this.moveTo(this.position);
  }

  show() {
    if (this.active) {
      this.sides.forEach((layer) => layer.setVisible(true));
    }
    this.dispatchEvent(new Event('change'));
    this.map.render();
  }

  /** @param {number} position Of the line, in per cent of the map's width. */
  moveTo(position) {
    this.position = Math.min(100, Math.max(0, position));
    this.line.style.left = `${this.position}%`;
    this.line.setAttribute('aria-valuenow', Math.round(this.position));
    this.map.render();
  }

  get sides() {
    return this.choices.map((choice) => this.layers[choice.value]);
  }

  /** Which part of the map a layer may draw, from 0 to 1; null for all. Of rasters only the two sides are drawn. */
  partOf(layer) {
    const [left, right] = this.sides;
    if (!this.active || left === right) {
      return null;
    }
    if (layer !== left && layer !== right) {
      return isRaster(layer) ? [0, 0] : null;
    }
    return layer === left ? [0, this.position / 100] : [this.position / 100, 1];
  }

  clip(layer, event) {
    const part = this.partOf(layer);
    if (!part) {
      return;
    }
    const {context} = event;
    const {width, height} = context.canvas;
    if (context instanceof CanvasRenderingContext2D) {
      context.save();
      context.beginPath();
      context.rect(part[0] * width, 0, (part[1] - part[0]) * width, height);
      context.clip();
    } else {
      if (this.frame !== event.frameState.index) { // OpenLayers would clear the first layer's part only
        this.frame = event.frameState.index;
        context.clearColor(0, 0, 0, 0);
        context.clear(context.COLOR_BUFFER_BIT);
      }
      context.enable(context.SCISSOR_TEST);
      context.scissor(Math.round(part[0] * width), 0, Math.round((part[1] - part[0]) * width), height);
    }
  }

  unclip(layer, event) {
    if (!this.partOf(layer)) {
      return;
    }
    if (event.context instanceof CanvasRenderingContext2D) {
      event.context.restore();
    } else {
      event.context.disable(event.context.SCISSOR_TEST);
    }
  }
}

/** The two layers that are compared at first: two class maps, else the two uppermost rasters, else any two. */
function preferredSides(layers) {
  const numbers = [...layers.keys()];
  const classes = numbers.filter((i) => layers[i].get('info').kind === 'classes');
  const shown = numbers.filter((i) => isRaster(layers[i]) && layers[i].getVisible());
  return [classes, shown, numbers].find((found) => found.length > 1)?.slice(-2) ?? [0, 0];
}

function isRaster(layer) {
  return layer.get('info').kind !== 'polygons';
}
