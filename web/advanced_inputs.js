/**
 * Folds advanced inputs in the classic renderer, too; Nodes 2.0 does so by itself. "Show Advanced"
 * in the menu of a node unfolds them.
 */

import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "bigain.advanced",
  nodeCreated(node) {
    if (!node.comfyClass.startsWith("BiGain") || !node.toggleAdvanced) return;
    const { computeSize, getLayoutWidgets } = node;
    // Inputs come and go with the choice that has them, and then the size is computed.
    node.computeSize = function (...given) {
      for (const widget of this.widgets ?? []) widget.advanced = Boolean(widget.options?.advanced);
      return computeSize.apply(this, given);
    };
    // The renderer draws no folded widget, but leaves room for it.
    node.getLayoutWidgets = function () {
      const widgets = getLayoutWidgets?.call(this) ?? this.widgets ?? [];
      return widgets.filter((widget) => this.showAdvanced || !widget.advanced);
    };
    node.setSize([node.size[0], node.computeSize()[1]]);
  },
});
