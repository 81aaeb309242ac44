// Plays the clips of explorer.py: every picture of a gallery under one clock, with boxes and paths over it.
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const HOLD = 4; // ticks for which the last frame stays before the clips begin again
  const ICONS = { play: "M3 1v14l11-7z", pause: "M3 1h4v14H3zM9 1h4v14H9z", back: "M4 1v14H2V1zm10 0v14L5 8z",
    on: "M12 1v14h2V1zM2 1v14l9-7z" };

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function shape(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function setIcon(button, icon, label) {
    const svg = shape("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
    svg.append(shape("path", { d: ICONS[icon] }));
    button.replaceChildren(svg);
    button.setAttribute("aria-label", label);
    button.title = label;
  }

  // ---- one picture -------------------------------------------------------------------------------------------------
  // Paths up to a frame, each a line through the agent's centres (broken where it is missing) and a dot at each.
  function pathsUntil(paths, frame) {
    let lines = "", dots = "";
    for (const path of paths) {
      let joined = false;
      for (const point of path.slice(0, frame + 1)) {
        if (point) {
          lines += `${joined ? "L" : "M"}${point}`;
          dots += `M${point}h0`; // a line of no length: its round cap is a dot, as wide on every screen
        }
        joined = Boolean(point);
      }
    }
    return { lines, dots };
  }

  function layer(kind, boxes, paths, frame) {
    const group = shape("g", { class: `of-${kind}` });
    const outlines = boxes.map(([x0, y0, x1, y1]) => `M${x0} ${y0}H${x1}V${y1}H${x0}z`).join("");
    const { lines, dots } = pathsUntil(paths, frame);
    for (const stroke of ["rl-edge", `rl-${kind}`]) {
      group.append(shape("path", { class: stroke, d: outlines }), shape("path", { class: stroke, d: lines }),
        shape("path", { class: `${stroke} rl-dots`, d: dots }));
    }
    return group;
  }

  // An arrow for each agent from where it was detected to where it is in truth, if that is further than a px.
  function shifts(paths, truePaths, frame) {
    const group = shape("g", { class: "of-shift" });
    let lines = "";
    paths.forEach((path, agent) => {
      const [from, to] = [path[frame], truePaths[agent][frame]];
      if (!from || !to) return;
      const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
      const length = Math.hypot(dx, dy);
      if (length < 1) return;
      const head = Math.min(2.5, length) / length;
      const barb = (side) => `M${to}l${-head * (dx + side * 0.6 * dy)} ${-head * (dy - side * 0.6 * dx)}`;
      lines += `M${from}L${to}${barb(1)}${barb(-1)}`;
    });
    for (const stroke of ["rl-edge rl-wide", "rl-shift"]) group.append(shape("path", { class: stroke, d: lines }));
    return group;
  }

  function screenOf(figure, contextFrames, redraw) {
    const [image, picture] = [figure.querySelector("img"), figure.querySelector(".rl-picture")];
    const canvas = element("canvas", { role: "img" });
    const svg = shape("svg", { "aria-hidden": "true" });
    picture.replaceChildren(canvas, svg); // the sheet is still drawn from, but no longer shown
    const given = new Image(); // the frames that all versions of a clip share
    for (const one of [image, given]) one.addEventListener("load", redraw);
    let clip, version;
    return {
      show(newClip, newVersion) {
        [clip, version] = [newClip, newVersion];
        const [, height, width] = clip.size;
        [canvas.width, canvas.height] = [width, height];
        svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
        if (version.sheet) [image.src, given.src] = [version.sheet, clip.given].map((sheet) => `data:image/webp;base64,${sheet}`);
        canvas.setAttribute("aria-label", version.description);
        figure.querySelector("strong").textContent = version.title;
        figure.querySelector("figcaption span").textContent = version.note;
      },
      draw(frame) {
        const { width, height } = canvas;
        const shared = version.sheet ? contextFrames : 0; // frames that are not on the version's own sheet
        const [sheet, at] = frame < shared ? [given, frame] : [image, frame - shared];
        if (!sheet.complete || !sheet.naturalWidth) return; // it comes back here when it has loaded
        canvas.getContext("2d").drawImage(sheet, at * width, 0, width, height, 0, 0, width, height);
        svg.replaceChildren(layer("true", clip.boxes[frame], clip.paths, frame),
          layer("detected", version.boxes[frame], version.paths, frame), shifts(version.paths, clip.paths, frame));
      },
    };
  }

  // ---- the clock and its controls ----------------------------------------------------------------------------------
  // Returns the controls and a function that draws the present frame again; calls draw(frame) when it changes.
  function clockOf(root, data, draw) {
    const frames = data.clips[0].size[0];
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    let [frame, playing, held, inSight] = [still ? frames - 1 : 0, !still, 0, true];

    const play = element("button", { type: "button" });
    const [back, on] = [element("button", { type: "button" }), element("button", { type: "button" })];
    setIcon(back, "back", "One frame back");
    setIcon(on, "on", "One frame on");
    const slider = element("input", { type: "range", min: 0, max: frames - 1, step: 1, "aria-label": "Frame" });
    const cells = Array.from({ length: frames }, (_, at) => element("i", at < data.context_frames ? { class: "of-given" } : {}));
    const time = element("div", { class: "rl-time", style: `--frames: ${frames}; --cell: ${100 / frames}%` }, ...cells,
      element("span", { style: `grid-column: span ${data.context_frames}`, "aria-hidden": "true" }, "given"),
      element("span", { style: `grid-column: span ${frames - data.context_frames}`, "aria-hidden": "true" }, "future"), slider);
    const layers = element("div", { class: "rl-layers" });
    for (const [kind, label] of [["true", "true"], ["detected", "detected"], ["shift", "error"]]) {
      const box = element("input", { type: "checkbox", checked: "" });
      box.addEventListener("change", () => root.classList.toggle(`without-${kind}`, !box.checked));
      layers.append(element("label", {}, box, element("i", { style: `color: var(--${kind})` }), label));
    }
    const controls = element("div", { class: "rl-controls", role: "group", "aria-label": "Playback" },
      element("div", { class: "rl-buttons" }, back, play, on), time, layers);

    function redraw() {
      draw(frame);
      root.classList.toggle("is-given", frame < data.context_frames);
      cells.forEach((cell, at) => cell.classList.toggle("is-now", at === frame));
      const seconds = (frame - data.context_frames + 1) / data.frames_per_second;
      slider.value = frame;
      slider.setAttribute("aria-valuetext", `${frame + 1} of ${frames}, ${frame < data.context_frames ? "given" : "future"}, ` +
        `${seconds.toFixed(2).replace("-", "\u2212")} s`);
    }
    function setPlaying(now) {
      playing = now;
      held = 0;
      setIcon(play, playing ? "pause" : "play", playing ? "Pause" : "Play");
    }
    function goTo(there) {
      setPlaying(false);
      frame = (there + frames) % frames;
      redraw();
    }
    function toggle() {
      if (!playing && frame === frames - 1) frame = 0;
      setPlaying(!playing);
      redraw();
    }
    play.addEventListener("click", toggle);
    back.addEventListener("click", () => goTo(frame - 1));
    on.addEventListener("click", () => goTo(frame + 1));
    slider.addEventListener("input", () => goTo(Number(slider.value)));
    for (const picture of root.querySelectorAll(".rl-picture")) picture.addEventListener("click", toggle);
    root.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
      const to = { ArrowLeft: frame - 1, ArrowRight: frame + 1, Home: 0, End: frames - 1 }[event.key];
      if (to !== undefined && event.target !== slider) goTo(to);
      else if (event.key === " " && !event.target.matches("button, [type=checkbox]")) toggle();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    new IntersectionObserver(([entry]) => { inSight = entry.isIntersecting; }).observe(root);
    setInterval(() => {
      if (!playing || !inSight || document.hidden || (frame === frames - 1 && held++ < HOLD)) return;
      [frame, held] = [(frame + 1) % frames, 0];
      redraw();
    }, 1000 / data.frames_per_second);
    setPlaying(playing);
    return { controls, redraw };
  }

  // ---- the explorer's choices, and another clip --------------------------------------------------------------------
  function anotherClip(button, data, screens, figures, redraw) {
    let shown = Number(figures[0].dataset.clip);
    button.addEventListener("click", () => {
      const others = data.clips.map((_, at) => at).filter((at) => at !== shown);
      shown = others[Math.floor(Math.random() * others.length)];
      screens.forEach((screen, at) => screen.show(data.clips[shown], data.clips[shown].versions[figures[at].dataset.version]));
      redraw();
    });
  }

  function remembered(selects) { // the choices that the page's address names
    const there = new URLSearchParams(location.hash.slice(1));
    for (const [name, select] of Object.entries(selects)) {
      const value = there.get(name);
      if ([...select.options].some((option) => option.value === value)) select.value = value;
    }
  }

  // The clips of a domain: with the page, in an element of their own, or in a file that the book has made of that.
  async function clipsOf(root, data, domain) {
    const there = data.clips.filter((clip) => clip.domain === domain);
    if (there.length) return there;
    const later = [...root.querySelectorAll(".rl-later")].find((one) => one.dataset.domain === domain);
    const { file } = later.dataset;
    if (!file) return JSON.parse(later.textContent);
    const name = file.split("/").pop();
    if (!window.rlClips?.[name]) {
      const script = element("script", { src: file });
      await new Promise((done, failed) => {
        script.addEventListener("load", done);
        script.addEventListener("error", () => failed(new Error(`These clips cannot be loaded: ${script.src}`)));
        document.head.append(script);
      });
    }
    return window.rlClips[name];
  }

  function choicesOf(root, data, screens, redraw) {
    const selects = Object.fromEntries([...root.querySelectorAll("select")].map((one) => [one.dataset.choice, one]));
    const status = root.querySelector(".rl-status");
    function only(select, isThere) { // disables what was not kept, and leaves a choice that was
      for (const option of select.options) option.disabled = !isThere(option.value);
      const there = [...select.options].filter((option) => !option.disabled);
      if (select.selectedOptions[0]?.disabled !== false) select.value = there[there.length - 1].value;
    }
    async function update() {
      const { domain, percentile, configuration, step } = selects;
      const wanted = domain.value;
      root.setAttribute("aria-busy", true);
      const ofDomain = await clipsOf(root, data, wanted).catch((error) => error);
      if (domain.value !== wanted) return; // another was chosen while this one was loaded
      root.removeAttribute("aria-busy");
      status.classList.toggle("is-visible", ofDomain instanceof Error);
      if (ofDomain instanceof Error) {
        status.textContent = ofDomain.message;
        return;
      }
      only(percentile, (value) => ofDomain.some((clip) => clip.percentile === value));
      for (const option of percentile.options) { // a percentile is another clip in each domain
        option.textContent = ofDomain.find((one) => one.percentile === option.value)?.choice ?? `${option.value}th percentile`;
      }
      const clip = ofDomain.find((one) => one.percentile === percentile.value);
      only(configuration, (value) => clip.versions.some((version) => version.configuration === value));
      const tuned = clip.versions.filter((version) => version.configuration === configuration.value);
      only(step, (value) => tuned.some((version) => String(version.step) === value));
      const atStep = (name) => clip.versions.find((one) => one.configuration === name && String(one.step) === step.value);
      const references = clip.versions.filter((version) => !version.step);
      const shown = [...references, ...screens.length > references.length + 1 ? [atStep(data.compared)] : [],
        atStep(configuration.value)].map((version) => version ?? tuned[0]);
      shown.forEach((version, at) => screens[at].show(clip, version));
      status.textContent = shown.map((version) => `${version.title}: ${version.note}`).join("; ");
      redraw();
    }
    for (const select of Object.values(selects)) {
      select.addEventListener("change", async () => {
        await update();
        const chosen = Object.entries(selects).map(([name, one]) => [name, one.value]);
        history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
      });
    }
    remembered(selects);
    update();
  }

  function start(root) {
    root.dataset.ready = "";
    const data = JSON.parse(root.querySelector("script:not(.rl-later)").textContent);
    let clock;
    const figures = [...root.querySelectorAll(".rl-screen")];
    const screens = figures.map((figure) => screenOf(figure, data.context_frames, () => clock?.redraw()));
    clock = clockOf(root, data, (frame) => screens.forEach((screen) => screen.draw(frame)));
    const choices = root.querySelector(".rl-choices");
    if (choices) choices.after(clock.controls);
    else root.prepend(clock.controls);
    for (const pictures of root.querySelectorAll(".rl-screens")) {
      pictures.tabIndex = 0;
      pictures.setAttribute("role", "group");
      pictures.setAttribute("aria-label", "Clips side by side; space plays and pauses, arrow keys step");
    }
    figures.forEach(({ dataset }, at) => {
      const clip = data.clips[dataset.clip];
      screens[at].show(clip, clip.versions[dataset.version]);
    });
    const another = root.querySelector(".rl-another");
    if (another) {
      clock.controls.append(another);
      another.hidden = false;
      anotherClip(another, data, screens, figures, clock.redraw);
    }
    if (choices) choicesOf(root, data, screens, clock.redraw);
    else clock.redraw();
  }

  document.querySelectorAll(".rl-gallery:not([data-ready])").forEach(start);
})();
