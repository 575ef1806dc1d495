// Short forms for making parts of the page, and numbers as people read them.

/**
 * @param {string} tag The element's tag, with a class after a dot: `span.name`.
 * @param {Object} attributes Attributes, and listeners by `onclick` and so on.
 * @param {...(Node|string)} children What it contains.
 * @return {HTMLElement} The element.
 */
export function make(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name);
  element.className = classes.join(' ');
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) {
      element.addEventListener(key.slice(2), value);
    } else if (value === true || value === false) {
      element.toggleAttribute(key, value);
    } else {
      element.setAttribute(key, value);
    }
  }
  element.append(...children);
  return element;
}

/** @return {HTMLElement} The element with an id. */
export const byId = (id) => document.getElementById(id);

/** @return {HTMLElement} A square in the colour of a class. */
export function swatch(color) {
  const square = make('span.swatch');
  square.style.background = color;
  return square;
}

/** @return {string} An area as people read it. */
export function areaText(squareMetres) {
  const units = [
    [1e6, 'km²'],
    [1e4, 'ha'],
    [1, 'm²'],
  ];
  const [size, unit] = units.find(([size]) => squareMetres >= size) ?? units[2];
  return `${numberText(squareMetres / size)} ${unit}`;
}

/** @return {string} A number with three significant digits, or all of its whole digits. */
export function numberText(value) {
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toLocaleString('en', {maximumFractionDigits: digits});
}
