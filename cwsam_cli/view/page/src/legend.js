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
    const bar = make('span.bar');
    bar.style.background = color;
    const row = make(
      'li',
      {'data-code': code, ondblclick: () => this.table.single(code), title: `${name} (${code})\nDouble-click: only this class`},
      make('label.check', {}, box, swatch(color), make('span.name', {}, name)),
      amount,
      share,
      make('span.track', {}, bar),
    );
    this.rows.set(entry, {row, box, amount, share, bar});
    return row;
  }

  update() {
    for (const [{code}, {row, box}] of this.rows) {
      box.checked = !this.table.hidden.has(code);
      row.classList.toggle('off', !box.checked);
    }
  }

  /**
   * Show what the classes cover.
   * @param {?{amounts: Float64Array, exact: boolean, areas: boolean, name: string}} counted By raster value, null for
   *     nothing.
   */
  showAmounts(counted) {
    const total = counted ? this.table.classes.reduce((sum, {value}) => sum + counted.amounts[value], 0) : 0;
    const largest = counted ? Math.max(...this.table.classes.map(({value}) => counted.amounts[value])) : 0;
    for (const [{value}, {row, amount, share, bar}] of this.rows) {
      const covered = counted?.amounts[value] ?? 0;
      const text = counted?.areas ? areaText(covered) : `${numberText(covered)} px`;
      amount.textContent = covered ? text : '';
      share.textContent = covered ? percentText((100 * covered) / total) : '';
      bar.style.width = `${largest ? (100 * covered) / largest : 0}%`;
      row.classList.toggle('absent', Boolean(counted) && !covered);
    }
    this.note.textContent = counted ? `In view, ${counted.name}${counted.exact ? '' : ', from an overview'}` : '';
  }
}

function percentText(percent) {
  return percent < 0.1 ? '<0.1 %' : `${percent.toFixed(1)} %`;
}
