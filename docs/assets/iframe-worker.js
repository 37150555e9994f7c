// A page that is opened from a folder (file:) may not start a Worker. The search then runs in a frame of its own.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = this.onerror = null;
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.frame = frame;
      const shim =
        "var postMessage = (data) => parent.dispatchEvent(new MessageEvent('message', { data, source: self }));" +
        "var importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done, fail) => {" +
        "const script = document.createElement('script'); script.src = url; script.onload = done; script.onerror = fail;" +
        "document.body.appendChild(script); })), Promise.resolve());";
      this.ready = new Promise((done) => {
        frame.addEventListener("load", () => done(frame.contentWindow), { once: true });
      });
      frame.srcdoc = `<base href="${location.href}"><script>${shim}<\/script><script src="${url}"><\/script>`;
      document.body.appendChild(frame);
      window.addEventListener("message", (event) => {
        if (event.source !== frame.contentWindow) return;
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      });
    }
    postMessage(data) {
      this.ready.then((frame) => frame.dispatchEvent(new frame.MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
