// Buttons, keys, the field for coordinates, and the dark and light theme.

import {byId} from './dom.js';

/**
 * Read coordinates that a person types.
 * @param {string} text Two numbers. Letters N, S, E and W mark latitude and longitude.
 * @param {?Object} lonLat The conversion from longitude and latitude.
 * @param {number[]} extent Where the layers are.
 * @return {?number[]} Coordinates of the map, null if the text has no two numbers.
 */
export function readPlace(text, lonLat, extent) {
  const found = [...text.matchAll(/(-?\d+(?:\.\d+)?)\s*°?\s*([NSEW])?/gi)].slice(0, 2);
  if (found.length < 2) {
    return null;
  }
  const [first, second] = found.map(([, number, letter]) => ({
    value: Number(number) * (/[SW]/i.test(letter ?? '') ? -1 : 1),
    letter: (letter ?? '').toUpperCase(),
  }));
  const place = [first.value, second.value];
  const latitudeFirst = 'NS'.includes(first.letter || '?') || 'EW'.includes(second.letter || '?');
  const [lon, lat] = latitudeFirst ? [place[1], place[0]] : place;
  const isLonLat = Boolean(first.letter || second.letter) || (!isNear(place, extent) && Math.abs(lon) <= 360 && Math.abs(lat) <= 90);
  return isLonLat && lonLat ? lonLat.forward([lon, lat]) : place;
}

/** Whether coordinates lie in an extent, or less than its size beside it. */
function isNear([x, y], [west, south, east, north]) {
  const [width, height] = [east - west, north - south];
  return x >= west - width && x <= east + width && y >= south - height && y <= north + height;
}

/** Set up the theme: that of the system, until a person chooses another one. */
export function setUpTheme() {
  byId('theme').addEventListener('click', toggleTheme);
}

export function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
}

/**
 * Call functions by keys, unless a person types into a field.
 * @param {Object<string, function(): void>} actions Functions by key.
 */
export function bindKeys(actions) {
  document.addEventListener('keydown', (event) => {
    const typing = event.target.matches('input:not([type=checkbox], [type=range]), select');
    const action = actions[event.key];
    if (action && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      action();
      event.preventDefault();
    }
  });
}
