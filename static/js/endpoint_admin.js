/** Form of an endpoint in the admin: its state follows the stream of events. */

import { $ } from "./dom.js";
import { followEndpoint } from "./endpoint_live.js";

const panel = $("[data-live-endpoint]");
if (panel) followEndpoint(panel.dataset.liveEndpoint);
