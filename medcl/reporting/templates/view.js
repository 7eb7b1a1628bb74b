const element = (id) => document.getElementById(id);
const settings = JSON.parse(element("settings").textContent);
const toggles = [...document.querySelectorAll("[data-mask]")];
const buttons = [...document.querySelectorAll("[data-view]")];

async function unpacked(id) {
  const holder = element(id);
  const text = holder.textContent;
  holder.remove();
  const step = 1 << 20;
  let at = 0;
  const packed = new ReadableStream({
    pull(stream) {
      if (at >= text.length) return stream.close();
      const letters = atob(text.slice(at, at + step));
      const bytes = new Uint8Array(letters.length);
      for (let place = 0; place < letters.length; place++) bytes[place] = letters.charCodeAt(place);
      at += step;
      stream.enqueue(bytes);
    },
  });
  return new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

function colours(labels) {
  const channel = (at) => [0, ...labels.map((label) => parseInt(label.colour.slice(at, at + 2), 16))];
  return {
    R: channel(1), G: channel(3), B: channel(5),
    A: [0, ...labels.map(() => 255)],
    I: [0, ...labels.map((label) => label.index)],
  };
}

function position(place) {
  const [x, y, z] = place.mm;
  if (settings.picture) return `column ${Math.round(-x) + 1}, row ${Math.round(-y) + 1}`;
  const side = (value, positive, negative) => `${Math.abs(value).toFixed(1)} mm ${value < 0 ? negative : positive}`;
  return [side(x, "right", "left"), side(y, "front", "back"), side(z, "up", "down")].join(", ");
}

function written(place) {
  const [value, ...found] = place.values.map((one) => one.value);
  const names = found.flatMap((index, number) => {
    const { name, labels } = settings.masks[number];
    const label = labels.find((one) => one.index === Math.round(index));
    return label && toggles[number].checked ? [`${name}: ${label.name}`] : [];
  });
  return [position(place), `value ${Number(value.toPrecision(5))}`, ...names].join(" \u00b7 ");
}

async function start() {
  if (!document.createElement("canvas").getContext("webgl2")) {
    throw new Error("This browser draws no WebGL 2, which this page needs. Try another browser, or turn on hardware acceleration.");
  }
  const source = URL.createObjectURL(new Blob([await unpacked("niivue")], { type: "text/javascript" }));
  const { Niivue, NVImage, SLICE_TYPE } = await import(source);
  URL.revokeObjectURL(source);
  const viewer = new Niivue({
    logLevel: "error", dragAndDropEnabled: false, viewModeHotKey: "", isOrientCube: true, multiplanarShowRender: 1,
    crosshairWidthUnit: "percent", crosshairWidth: 0.4, crosshairColor: [0.35, 0.7, 1, 0.8], fontColor: [1, 0.9, 0.4, 1],
    isRadiologicalConvention: settings.picture, isOrientationTextVisible: !settings.picture, showAllOrientationMarkers: true,
    multiplanarLayout: 2, multiplanarPadPixels: 6,
  });
  await viewer.attachToCanvas(element("canvas"));
  viewer.onLocationChange = (place) => { element("place").textContent = written(place); };

  const image = async (id, low, high) =>
    NVImage.new(await unpacked(id), `${id}.nii`, "gray", 1, null, low, high);
  const volume = await image("volume", ...settings.window);
  viewer.addVolume(volume);
  for (const [number, mask] of settings.masks.entries()) {
    const overlay = await image(`mask-${number}`, 0, 1);
    overlay.setColormapLabel(colours(mask.labels));
    overlay.opacity = Number(element("opacity").value);
    viewer.addVolume(overlay);
  }

  const views = {
    axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL,
    planes: SLICE_TYPE.MULTIPLANAR, render: SLICE_TYPE.RENDER,
  };
  const show = (view) => {
    viewer.setSliceType(views[view]);
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.view === view));
  };
  for (const button of buttons) {
    button.disabled = false;
    button.addEventListener("click", () => show(button.dataset.view));
  }

  const write = () => {
    element("low").value = Number(volume.cal_min.toPrecision(5));
    element("high").value = Number(volume.cal_max.toPrecision(5));
  };
  const apply = (low, high) => {
    if (!(high > low)) return;
    volume.cal_min = low;
    volume.cal_max = high;
    viewer.updateGLVolume();
  };
  for (const id of ["low", "high"]) {
    element(id).addEventListener("change", () => apply(element("low").valueAsNumber, element("high").valueAsNumber));
  }
  element("reset").addEventListener("click", () => { apply(...settings.window); write(); });
  viewer.onIntensityChange = write;
  write();

  const blend = () => {
    toggles.forEach((toggle, number) => {
      viewer.volumes[number + 1].opacity = toggle.checked ? Number(element("opacity").value) : 0;
    });
    viewer.updateGLVolume();
  };
  for (const toggle of toggles) toggle.addEventListener("change", blend);
  element("opacity")?.addEventListener("input", blend);
  element("radiological")?.addEventListener("change", (event) => viewer.setRadiologicalConvention(event.target.checked));

  show(settings.plane ?? "planes");
  if (settings.start) viewer.scene.crosshairPos = viewer.mm2frac(settings.start, 0, true);
  viewer.drawScene();
  viewer.createOnLocationChange();
  element("message").hidden = true;
  return viewer;
}

globalThis.medclView = start();
globalThis.medclView.catch((error) => { element("message").textContent = error.message; });
