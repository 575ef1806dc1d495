// Class tables: which classes are shown, and in which colours.

/** A class table that several layers can share. */
export class ClassTable extends EventTarget {
  /** @param {{classes: {value: number, code: number, name: string, color: string}[]}} table As the page's data has it. */
  constructor(table) {
    super();
    this.classes = table.classes;
    this.hidden = new Set();
    this.byCode = new Map(table.classes.map((entry) => [entry.code, entry]));
    this.byValue = new Map(table.classes.map((entry) => [entry.value, entry]));
  }

  /** @param {number[]} codes The classes that are hidden from now on. */
  hide(codes) {
    this.hidden = new Set(codes);
    this.dispatchEvent(new Event('change'));
  }

  toggle(code) {
    const codes = new Set(this.hidden);
    if (!codes.delete(code)) {
      codes.add(code);
    }
    this.hide(codes);
  }

  /** Show one class only, or all if it is the only one already. */
  single(code) {
    const others = this.classes.map((entry) => entry.code).filter((other) => other !== code);
    this.hide(this.hidden.size === others.length && !this.hidden.has(code) ? [] : others);
  }

  /** @return {Array<string|number[]>} Colour by raster value, transparent for hidden classes and other values. */
  palette() {
    const colors = Array.from({length: 256}, () => [0, 0, 0, 0]);
    for (const {value, code, color} of this.classes) {
      if (!this.hidden.has(code)) {
        colors[value] = color;
      }
    }
    return colors;
  }
}
