// The legend: switches classes on and off, and shows the area of each class in view.

import {areaText, make, numberText, swatch} from './dom.js';

export class Legend {
  /**
   * @param {HTMLElement} box Where the legend goes.
   * @param {import('./classes.js').ClassTable} table The class table.
   * @param {string} title Names of the layers that have these classes; empty if there is only one legend.
   */
  constructor(box, table, title) {
    this.table = table;
    this.rows = new Map();
    this.note = make('p.note');
    const list = make('ul.classes');
    for (const entry of table.classes) {
      list.append(this.makeRow(entry));
    }
    const buttons = make(
      'div.buttons',
      {},
      make('button', {onclick: () => table.hide([])}, 'All'),
      make('button', {onclick: () => table.hide(table.classes.map((entry) => entry.code))}, 'None'),
    );
    box.append(make('section.legend', {}, make('div.row', {}, make('h2', {}, title), buttons), list, this.note));
    table.addEventListener('change', () => this.update());
  }

  makeRow(entry) {
    const {code, name, color} = entry;
    const box = make('input', {type: 'checkbox', onchange: () => this.table.toggle(code)});
    box.checked = true;
    const amount = make('span.amount');
    const share = make('span.share');
    const bars = [make('span.bar'), make('span.bar')];
    bars.forEach((bar) => (bar.style.background = color));
    const row = make(
      'li',
      {'data-code': code, ondblclick: () => this.table.single(code), title: `${name} (${code})\nDouble-click: only this class`},
      make('label.check', {}, box, swatch(color), make('span.name', {}, name)),
      amount,
      share,
      ...bars.map((bar) => make('span.track', {}, bar)),
    );
    this.rows.set(entry, {row, box, amount, share, bars});
    return row;
  }

  update() {
    for (const [{code}, {row, box}] of this.rows) {
      box.checked = !this.table.hidden.has(code);
      row.classList.toggle('off', !box.checked);
    }
  }

  /**
   * Show what the classes cover: area and share in one map, or the areas in two maps.
   * @param {{amounts: Float64Array, exact: boolean, areas: boolean, name: string}[]} maps What is counted, by raster
   *     value; none, one or two maps.
   * @param {?number} difference Share of the pixels in which two maps differ, null if it is not known.
   */
  showAmounts(maps, difference) {
    const largest = Math.max(...this.table.classes.flatMap(({value}) => maps.map(({amounts}) => amounts[value])));
    const totals = maps.map(({amounts}) => this.table.classes.reduce((sum, {value}) => sum + amounts[value], 0));
    for (const [{value}, {row, amount, share, bars}] of this.rows) {
      const covered = maps.map(({amounts}) => amounts[value]);
      const texts = maps.map(({areas}, i) => (covered[i] ? (areas ? areaText(covered[i]) : `${numberText(covered[i])} px`) : ''));
      amount.textContent = texts[0] ?? '';
      share.textContent = maps.length > 1 ? texts[1] : covered[0] ? percentText((100 * covered[0]) / totals[0]) : '';
      bars.forEach((bar, i) => (bar.style.width = `${covered[i] ? (100 * covered[i]) / largest : 0}%`));
      row.classList.toggle('absent', maps.length > 0 && !covered.some(Boolean));
      row.classList.toggle('pair', maps.length > 1);
    }
    const overview = maps.every(({exact}) => exact) ? '' : ', from an overview';
    const names = maps.map(({name}) => name).join(' and ');
    const differ = difference === null ? '' : `. They differ in ${percentText(100 * difference)} of the pixels`;
    this.note.textContent = maps.length ? `In view, ${names}${overview}${differ}` : '';
  }
}

function percentText(percent) {
  return percent > 0 && percent < 0.1 ? '<0.1 %' : `${percent.toFixed(1)} %`;
}
