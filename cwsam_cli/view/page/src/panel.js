// The list of layers: which are shown, how opaque they are, and how the pictures are stretched.

import {make} from './dom.js';

const KINDS = {image: 'Image', classes: 'Classes', values: 'Values', polygons: 'Polygons'};

/**
 * Fill the list of layers, the topmost first.
 * @param {HTMLElement} list The list.
 * @param {import('ol/layer/Layer.js').default[]} layers The layers of the map, the lowest first.
 * @return {Map<Object, HTMLElement>} The line of text under each layer's name, by layer.
 */
export function showLayers(list, layers) {
  const notes = new Map();
  for (const [position, layer] of [...layers.entries()].reverse()) {
    const {kind, name, note} = layer.get('info');
    const line = make('p.note', {}, note || KINDS[kind]);
    notes.set(layer, line);
    list.append(
      make(
        'li',
        {},
        make(
          'div.row',
          {},
          make(
            'label.check',
            {title: `${name}\nKey: ${position + 1}`},
            bound(layer, 'visible', {'data-layer': position}),
            make('span.name', {}, name),
          ),
          kind === 'polygons' ? fillButton(layer) : '',
        ),
        line,
        opacitySlider(layer, name),
      ),
    );
  }
  return notes;
}

function bound(layer, property, attributes) {
  const box = make('input', {
    type: 'checkbox',
    ...attributes,
    onchange: () => layer.set(property, box.checked),
  });
  box.checked = layer.get(property);
  layer.on(`change:${property}`, () => (box.checked = layer.get(property)));
  return box;
}

function fillButton(layer) {
  return make('label.small', {title: 'Fill polygons with the colour of their class'}, bound(layer, 'filled', {}), 'fill');
}

function opacitySlider(layer, name) {
  const slider = make('input.opacity', {
    type: 'range',
    min: 0,
    max: 100,
    value: 100,
    'aria-label': `Opacity of ${name}`,
    title: 'Opacity',
    oninput: () => {
      layer.setOpacity(slider.value / 100);
      slider.style.setProperty('--part', `${slider.value}%`);
    },
  });
  return slider;
}
