"use strict";
(() => {
  if (customElements.get("saliency-viewer")) return;
  const SIDE = 360; // the longer side of a canvas; the browser resizes it
  const remembered = {}; // settings of viewers that follow each other, by key
  const slices = {}; // where their sliders through slices were put, by key and title
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const short = (v) => {
    const size = Math.abs(v);
    return v === 0 || (size >= 1e-3 && size < 1e5) ? String(Number(v.toPrecision(3))) : v.toExponential(1);
  };
  const number = (v) => short(v).replaceAll("-", "−").replace("e+", "e");

  /** Reads the levels of a grey PNG. */
  async function readLevels(image) {
    await image.decode();
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const levels = new Float32Array(canvas.width * canvas.height);
    for (let i = 0; i < levels.length; i++) levels[i] = pixels[4 * i];
    return { levels, width: canvas.width, height: canvas.height };
  }

  class MapFigure {
    constructor(figure, section) {
      this.figure = figure;
      this.section = section;
      this.slices = Number(section.style.getPropertyValue("--ts-slices")) || 1;
      this.stage = figure.querySelector(".ts-stage");
      this.out = figure.querySelector(".ts-value");
      this.signed = figure.hasAttribute("data-signed");
      this.low = Number(figure.dataset.low);
      this.high = Number(figure.dataset.high);
      this.range = [this.low, this.high];
      this.drawn = "";
      this.source = figure.querySelector("img").src;
      for (const left of figure.querySelectorAll("canvas, .ts-cross")) left.remove();
    }

    /** Whether somebody, such as gradio, put another map in this one's place. */
    get stale() {
      const image = this.figure.querySelector("img");
      return !this.figure.isConnected || !image || image.src !== this.source
        || Boolean(this.canvas && !this.canvas.isConnected);
    }

    async read() {
      if (!this.grid) this.grid = await readLevels(this.stage.querySelector("img"));
      return this.grid;
    }

    /** The map's own value, in [0, 1] or, signed, [-1, 1], at a level of the PNG. */
    own(level) {
      return this.signed ? Math.max(-1, (level - 128) / 127) : level / 255;
    }

    /** The same in the method's unit. */
    raw(level) {
      const v = this.own(level);
      return this.signed ? v * this.high : this.low + v * (this.high - this.low);
    }

    /** The slice that is shown, of a volume. */
    get slice() {
      return Number(this.section.style.getPropertyValue("--ts-slice")) || 0;
    }

    /** The level at a place in parts of the width and height of a slice, bilinearly. */
    level(x, y, slice) {
      const { levels, width } = this.grid;
      const height = this.grid.height / this.slices, first = slice * height;
      const cx = Math.min(Math.max(x * width - 0.5, 0), width - 1);
      const cy = Math.min(Math.max(y * height - 0.5, 0), height - 1);
      const x0 = Math.floor(cx), y0 = Math.floor(cy);
      const x1 = Math.min(x0 + 1, width - 1), y1 = Math.min(y0 + 1, height - 1);
      const fx = cx - x0, fy = cy - y0;
      const upper = (first + y0) * width, lower = (first + y1) * width;
      const top = levels[upper + x0] * (1 - fx) + levels[upper + x1] * fx;
      const low = levels[lower + x0] * (1 - fx) + levels[lower + x1] * fx;
      return top * (1 - fy) + low * fy;
    }

    async draw(mode, tables) {
      const slice = this.slice, state = [mode, ...this.range, slice].join();
      if (this.drawn === state) return;
      this.drawn = state;
      if (!this.grid) await this.read(); // at once, where it was read: printing does not wait
      if (this.over || this.drawn !== state) return; // something newer is drawn
      const { width, height } = this.stage.getBoundingClientRect();
      const scale = SIDE / Math.max(width, height, 1);
      if (!this.canvas) {
        this.canvas = document.createElement("canvas");
        this.canvas.setAttribute("aria-hidden", "true");
        this.canvas.width = Math.max(1, Math.round(width * scale)) || SIDE;
        this.canvas.height = Math.max(1, Math.round(height * scale)) || SIDE;
        this.stage.querySelector("img").after(this.canvas);
      }
      const w = this.canvas.width, h = this.canvas.height;
      const context = this.canvas.getContext("2d");
      const picture = context.createImageData(w, h);
      const table = this.signed ? tables.diverging : tables.plain;
      const lookup = new Uint8ClampedArray(4 * 256);
      const [low, high] = this.range;
      for (let level = 0; level < 256; level++) {
        const span = this.signed ? high : high - low;
        let s = (span > 0 && (this.raw(level) - (this.signed ? 0 : low)) / span) || 0; // not NaN
        s = Math.min(1, Math.max(this.signed ? -1 : 0, s));
        const place = 3 * Math.round(255 * (this.signed ? (1 + s) / 2 : s));
        for (let c = 0; c < 3; c++) lookup[4 * level + c] = mode === "masked" ? 0 : table[place + c];
        lookup[4 * level + 3] = 255 * (
          mode === "raw" ? 1 : mode === "masked" ? 1 - Math.max(0, s) : Math.sqrt(Math.abs(s)));
      }
      const words = new Uint32Array(lookup.buffer), pixels = new Uint32Array(picture.data.buffer);
      for (let y = 0, i = 0; y < h; y++)
        for (let x = 0; x < w; x++, i++)
          pixels[i] = words[Math.round(this.level((x + 0.5) / w, (y + 0.5) / h, slice))];
      context.putImageData(picture, 0, 0);
      this.figure.querySelector(".ts-high").textContent = number(high);
      this.figure.querySelector(".ts-low").textContent = number(low);
    }

    async mark(x, y) {
      await this.read();
      if (!this.cross) {
        this.cross = document.createElement("span");
        this.cross.className = "ts-cross";
        this.stage.append(this.cross);
      }
      this.cross.hidden = false;
      this.cross.style.left = `${100 * x}%`;
      this.cross.style.top = `${100 * y}%`;
      const level = this.level(x, y, this.slice);
      this.out.textContent =
        `${this.own(level).toFixed(2).replace("-", "−")} here, raw ${number(this.raw(level))}`;
    }

    unmark() {
      if (this.cross) this.cross.hidden = true;
      this.out.textContent = "";
    }
  }

  class SaliencyViewer extends HTMLElement {
    connectedCallback() {
      if (this.maps) return;
      if (document.readyState === "loading")
        document.addEventListener("DOMContentLoaded", () => this.start(), { once: true });
      else queueMicrotask(() => this.start());
    }

    disconnectedCallback() {
      if (this.maps) this.stop();
    }

    stop() {
      this.listening.abort();
      this.maps.forEach((map) => { map.over = true; });
      this.seen.disconnect();
      this.changes.disconnect();
      this.maps = this.state = null;
    }

    /** Begins again if the maps inside were replaced. */
    followChanges() {
      const figures = this.querySelectorAll(".ts-map");
      const same = figures.length === this.maps.length && this.classList.contains("ts-ready")
        && !this.maps.some((map) => map.stale);
      if (same) return;
      this.stop();
      this.start();
    }

    start() {
      if (this.maps || !this.isConnected) return;
      this.form = this.querySelector(".ts-bar");
      if (!this.form) return;
      this.listening = new AbortController();
      const { signal } = this.listening;
      this.tables = { plain: bytes(this.dataset.plain), diverging: bytes(this.dataset.diverging) };
      this.maps = [...this.querySelectorAll(".ts-map")].map(
        (figure) => new MapFigure(figure, figure.closest(".ts-photo")));
      const key = this.dataset.key;
      for (const [name, value] of Object.entries((key && remembered[key]) || {}))
        if (this.form.elements[name]) this.form.elements[name].value = value;
      this.form.hidden = this.maps.length === 0;
      this.form.addEventListener("input", () => this.update(), { signal });
      this.form.addEventListener("submit", (event) => event.preventDefault(), { signal });
      for (const section of this.querySelectorAll(".ts-photo")) {
        this.follow(section);
        this.followSlices(section);
      }
      this.seen = new IntersectionObserver((entries) => {
        for (const entry of entries) {
          const map = this.maps.find((one) => one.figure === entry.target);
          if (!map) continue;
          map.near = entry.isIntersecting;
          if (map.near) map.draw(this.dataset.mode, this.tables);
        }
      }, { rootMargin: "600px" });
      this.update();
      this.classList.add("ts-ready");
      for (const map of this.maps) this.seen.observe(map.figure);
      const [...maps] = this.maps;
      const readNext = () => { // while the reader looks at the first ones
        const map = maps.find((one) => !one.grid && !one.over);
        if (map) map.read().then(() => setTimeout(readNext), () => {});
      };
      readNext();
      const redraw = () => this.maps.forEach((map) => map.draw(this.dataset.mode, this.tables));
      addEventListener("beforeprint", redraw, { signal });
      this.changes = new MutationObserver(() => this.followChanges());
      this.changes.observe(this,
        { childList: true, subtree: true, attributes: true, attributeFilter: ["class", "src"] });
    }

    /** Takes the form's settings over; the opacity alone is only a property of the style. */
    update() {
      const { mode, opacity, scale } = this.form.elements;
      this.style.setProperty("--ts-opacity", opacity.value);
      this.querySelector(".ts-percent").textContent = `${Math.round(100 * opacity.value)} %`;
      opacity.disabled = mode.value !== "overlay";
      if (this.dataset.key)
        remembered[this.dataset.key] =
          { mode: mode.value, opacity: opacity.value, ...(scale && { scale: scale.value }) };
      const state = [mode.value, scale && scale.value].join();
      if (state === this.state) return;
      this.state = state;
      this.dataset.mode = mode.value;
      const shared = {};
      const group = (map) => `${map.signed} ${scale.value === "all" ? "" : map.figure.dataset.group}`;
      for (const map of scale && scale.value !== "own" ? this.maps : []) {
        if (Number.isNaN(map.low)) continue; // it is not finite
        const range = (shared[group(map)] ??= [map.low, map.high]);
        range[0] = Math.min(range[0], map.low);
        range[1] = Math.max(range[1], map.high);
      }
      for (const map of this.maps) {
        map.range = (scale && scale.value !== "own" && shared[group(map)]) || [map.low, map.high];
        if (map.near) map.draw(mode.value, this.tables);
      }
    }

    /** Goes through the slices of a volume or the frames of a video. */
    followSlices(section) {
      const label = section.querySelector(".ts-stack");
      if (!label) return;
      const input = label.querySelector("input"), output = label.querySelector("output");
      const places = label.dataset.places.split(" ");
      const key = `${this.dataset.key} ${section.getAttribute("aria-label")}`;
      const show = () => {
        const words = `${Number(places[input.value]) + 1} of ${label.dataset.total}`;
        section.style.setProperty("--ts-slice", input.value);
        output.textContent = words;
        input.setAttribute("aria-valuetext", `${label.querySelector("span").textContent} ${words}`);
        for (const map of this.maps)
          if (map.section === section && map.near) map.draw(this.dataset.mode, this.tables);
      };
      if (this.dataset.key && key in slices) input.value = slices[key];
      show();
      input.addEventListener("input", () => {
        slices[key] = input.value;
        show();
      }, { signal: this.listening.signal });
    }

    /** Shows the value at the pointer, or at a place that arrow keys move, in all maps of a photo. */
    follow(section) {
      const maps = this.maps.filter((map) => section.contains(map.figure));
      const { signal } = this.listening;
      const hide = () => maps.forEach((map) => map.unmark());
      for (const map of maps) {
        let place = [0.5, 0.5];
        const show = () => maps.forEach((one) => one.mark(...place));
        map.stage.addEventListener("pointermove", (event) => {
          const box = map.stage.getBoundingClientRect();
          place = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
          show();
        }, { signal });
        map.stage.addEventListener("pointerleave", hide, { signal });
        map.stage.addEventListener("blur", hide, { signal });
        map.stage.addEventListener("keydown", (event) => {
          const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
          if (event.key === "Escape") hide();
          if (!step) return;
          event.preventDefault();
          place = place.map((v, i) => Math.min(0.999, Math.max(0, v + step[i] * (event.shiftKey ? 0.1 : 0.02))));
          show();
        }, { signal });
      }
    }
  }
  customElements.define("saliency-viewer", SaliencyViewer);
})();
