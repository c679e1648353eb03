// A tone in the left of two channels, to send, and ears that tell the channels apart.

export class Tone {
  #context = new AudioContext();
  #loudness = this.#context.createGain();
  #output = this.#context.createMediaStreamDestination();

  constructor() {
    const left = this.#context.createOscillator();
    left.frequency.value = 440;
    const both = this.#context.createChannelMerger(2);
    left.connect(this.#loudness).connect(both, 0, 0);
    both.connect(this.#output);
    this.setLoudness(0.5);
    left.start();
  }

  get track() {
    const [track] = this.#output.stream.getAudioTracks();
    // Else it is taken for speech, and mixed down.
    track.contentHint = "music";
    return track;
  }

  setLoudness(loudness) {
    this.#loudness.gain.value = loudness;
  }

  /** Resolves to a function that tells how loud [left, right] of a track are at the moment. */
  static async listen(track) {
    const context = new AudioContext();
    await context.resume();
    const apart = context.createChannelSplitter(2);
    context.createMediaStreamSource(new MediaStream([track])).connect(apart);
    const meters = [0, 1].map((channel) => {
      const meter = context.createAnalyser();
      apart.connect(meter, channel);
      return meter;
    });
    return () => meters.map((meter) => {
      const samples = new Float32Array(meter.fftSize);
      meter.getFloatTimeDomainData(samples);
      return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
    });
  }
}
