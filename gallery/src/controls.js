// Turning and zooming the two pictures of an item, by mouse, touch and keys.

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class Controls {
  // pose() gives what to change (null before the item is there), changed() is called after.
  constructor(target, { pose, home, changed, isLarge }) {
    Object.assign(this, { pose, home, changed, isLarge, pointers: new Map() });
    target.addEventListener("pointerdown", (event) => this.down(event, target));
    target.addEventListener("pointermove", (event) => this.move(event, target));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      target.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    target.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    target.addEventListener("keydown", (event) => this.key(event));
    target.addEventListener("contextmenu", (event) => this.isLarge() && event.preventDefault());
  }

  down(event, target) {
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    target.setPointerCapture(event.pointerId);
  }

  move(event, target) {
    const before = this.pointers.get(event.pointerId);
    const pose = this.pose();
    if (!before || !pose) return;
    const now = [event.clientX, event.clientY];
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    const share = 1 / this.pointers.size;
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const apart = (at) => Math.max(Math.hypot(at[0] - other[0], at[1] - other[1]), 1);
      pose.away = clamp((pose.away * apart(before)) / apart(now), 0.15, 3);
    }
    this.pointers.set(event.pointerId, now);
    if (event.shiftKey || event.buttons & 2) this.shift(pose, dx, dy, target.clientHeight);
    else this.turn(pose, -0.008 * dx * share, 0.006 * dy * share);
    this.changed();
  }

  turn(pose, around, up) {
    pose.azimuth += around;
    pose.elevation = clamp(pose.elevation + up, 0.03, 1.55);
  }

  // Move the middle of the picture, in the plane of the picture.
  shift(pose, dx, dy, height) {
    const scale = (4 * pose.away) / Math.max(height, 1);
    const [sin, cos] = [Math.sin(pose.azimuth), Math.cos(pose.azimuth)];
    const ahead = dy * Math.sin(pose.elevation);
    pose.centre.x += scale * (dx * sin - ahead * cos);
    pose.centre.y += scale * (-dx * cos - ahead * sin);
    pose.centre.z += scale * dy * Math.cos(pose.elevation);
  }

  // Without Ctrl, the wheel scrolls the page, except over a picture that fills the window.
  wheel(event) {
    const pose = this.pose();
    if (!pose || !(this.isLarge() || event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    this.zoom(pose, Math.exp(clamp(event.deltaY, -60, 60) * 0.004));
    this.changed();
  }

  zoom(pose, factor) {
    pose.away = clamp(pose.away * factor, 0.15, 3);
  }

  key(event) {
    const pose = this.pose();
    if (!pose || event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      ArrowLeft: () => this.turn(pose, -0.12, 0),
      ArrowRight: () => this.turn(pose, 0.12, 0),
      ArrowUp: () => this.turn(pose, 0, 0.08),
      ArrowDown: () => this.turn(pose, 0, -0.08),
      "+": () => this.zoom(pose, 0.87),
      "=": () => this.zoom(pose, 0.87),
      "-": () => this.zoom(pose, 1.15),
      0: () => this.home(),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
    this.changed();
  }
}
