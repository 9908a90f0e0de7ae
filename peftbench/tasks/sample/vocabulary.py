"""The two invented worlds the sample data talks about.

They have no names, things or verbs in common: a newsroom one serves most tasks, and a seafaring one the
mismatched splits, whose genre must differ from that of the training data.
"""

from __future__ import annotations

from peftbench.tasks.sample.draw import concepts, words
from peftbench.tasks.sample.world import (
    World,
    parse_cities,
    parse_encounters,
    parse_things,
    parse_times,
    parse_transfers,
)

_MONTHS = "January; February; March; April; May; June; July; August; September; October; November; December"

NEWS = World(
    men=words(
        "Adam; Brian; Carlos; Daniel; Edward; Felix; George; Henry; Ivan; James; Kevin; Leon; Martin; "
        "Nathan; Oscar; Peter; Robert; Samuel; Thomas; Victor; Walter; David; Simon; Paul"
    ),
    women=words(
        "Alice; Barbara; Clara; Diana; Emma; Fiona; Grace; Helen; Irene; Julia; Karen; Laura; Maria; Nora; "
        "Olivia; Paula; Rachel; Sarah; Teresa; Vera; Wendy; Susan; Anna; Linda"
    ),
    surnames=words(
        "Adams; Baker; Clark; Davis; Evans; Fisher; Garcia; Harris; Jackson; King; Lopez; Miller; Nelson; "
        "Owens; Parker; Quinn; Roberts; Smith; Taylor; Turner; Walker; Young; Ward; Silva; Novak; Keller; "
        "Hughes; Moreno; Bennett; Carter; Foster; Gray; Howard; Jensen; Lambert; Murphy; Palmer; "
        "Reed; Shaw; Wolf"
    ),
    jobs=concepts(
        "teacher/instructor; doctor/physician; lawyer/attorney; writer/author; actor/performer; "
        "journalist/reporter; architect; dentist; farmer/grower; engineer; painter; banker; chef/cook; "
        "baker; pilot/aviator; librarian; scientist/researcher; musician; butcher; tailor; "
        "photographer; gardener; carpenter/joiner; shopkeeper/storekeeper; police officer/policeman"
    ),
    cities=parse_cities(
        """
        Portugal: Lisbon; Porto
        Spain: Madrid; Seville; Valencia
        France: Paris; Lyon; Nice
        Germany: Berlin; Munich; Hamburg
        Italy: Rome; Milan; Venice
        Norway: Oslo; Bergen
        Canada: Toronto; Montreal
        Japan: Tokyo; Kyoto
        Brazil: Rio; Salvador
        India: Delhi; Mumbai
        Egypt: Cairo; Alexandria
        Australia: Sydney; Melbourne
        Poland: Warsaw; Krakow
        Ireland: Dublin; Galway
        """
    ),
    venues=concepts(
        "market/marketplace; airport; library; railway station/train station; museum; hospital/clinic; "
        "theatre/playhouse; university/college; courthouse/law court; football ground/stadium; "
        "town hall/city hall; restaurant/eating place; park/public garden; hotel; school; shop/store"
    ),
    things=parse_things(
        """
        tools: hammers; drills/power drills; ladders/stepladders; saws/handsaws; shovels/spades
        artworks: paintings/pictures; statues/sculptures; drawings/sketches; portraits
        vehicles: cars/automobiles; bicycles/bikes; trucks/lorries; motorcycles/motorbikes; vans
        pieces of furniture: chairs; couches/sofas; desks; bookcases/bookshelves; wardrobes/closets
        animals: horses; dogs; donkeys; rabbits/bunnies; parrots; goats
        musical instruments: violins/fiddles; guitars; pianos; drums; trumpets
        electronic devices: laptops/notebook computers; phones/telephones; cameras; televisions/TVs; radios
        pieces of jewellery: rings; necklaces; watches/wristwatches; bracelets/bangles
        """
    ),
    transfers=parse_transfers(
        """
        sell,sold,sold | to | buy,bought,bought; purchase,purchased,purchased | from
        lend,lent,lent; loan,loaned,loaned | to | borrow,borrowed,borrowed | from
        give,gave,given; donate,donated,donated | to | accept,accepted,accepted | from
        show,showed,shown; display,displayed,displayed | to | |
        promise,promised,promised; pledge,pledged,pledged | to | |
        steal,stole,stolen; take,took,taken | from | |
        return,returned,returned; bring back,brought back,brought back | to | |
        lose,lost,lost; forfeit,forfeited,forfeited | to | win,won,won | from
        send,sent,sent; ship,shipped,shipped | to | |
        """
    ),
    encounters=parse_encounters(
        """
        hire,hired,hired; employ,employed,employed
        dismiss,dismissed,dismissed; fire,fired,fired
        praise,praised,praised; commend,commended,commended
        criticise,criticised,criticised; denounce,denounced,denounced
        sue,sued,sued; prosecute,prosecuted,prosecuted
        defeat,defeated,defeated; beat,beat,beaten
        interview,interviewed,interviewed; question,questioned,questioned
        call,called,called; telephone,telephoned,telephoned
        rescue,rescued,rescued; save,saved,saved
        warn,warned,warned; caution,cautioned,cautioned
        replace,replaced,replaced; supplant,supplanted,supplanted
        teach,taught,taught; instruct,instructed,instructed
        insult,insulted,insulted; offend,offended,offended
        """
    ),
    times=parse_times("Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday", _MONTHS),
    reasons=concepts(
        "because the contract had expired/since the contract had run out; "
        "because of the storm/owing to the bad weather; "
        "because the shop was closing/as the store was shutting down; "
        "after the election was lost/following the defeat at the polls; "
        "before the holiday began/ahead of the holiday; "
        "during the royal visit/while the king was visiting; "
        "after a long quarrel/following a lengthy argument; "
        "in spite of the risk/despite the danger; "
        "because money was short/since funds were low; "
        "during the strike/while the workers were on strike; "
        "during the flood/while the river was flooding; "
        "after the fire/following the blaze"
    ),
    manners=concepts(
        "in secret/secretly; in public/publicly; with reluctance/reluctantly; for the first time; "
        "by mistake/accidentally; in a hurry/hurriedly; with great pride/proudly; for the second time; "
        "without any warning/unexpectedly; very politely/with great courtesy"
    ),
    sources=concepts(
        "the local paper/the local newspaper; the police; a witness/an eyewitness; the mayor; "
        "a spokesman/a spokesperson; the radio"
    ),
)

SEA = World(
    men=words("Barnaby; Caspar; Ezra; Gideon; Jonah; Lachlan; Magnus; Rufus; Silas; Tobias; Angus; Hamish"),
    women=words("Agatha; Bronwyn; Cordelia; Drusilla; Hester; Isolde; Morag; Ottilie; Rowena; Tabitha; Una; Ingrid"),
    surnames=words(
        "Blackwood; Cutler; Drake; Finnegan; Gannet; Hawkins; Kelp; Lockhart; Marlowe; Pike; Sterling; "
        "Thorne; Whaler; Bligh; Cobb; Flint; Marsh; Rigby"
    ),
    jobs=concepts(
        "captain/skipper; cabin boy; harbour master; fisherman/angler; sailmaker; lighthouse keeper; "
        "navigator; shipwright/boatbuilder; diver; smuggler; first mate; oarsman/rower"
    ),
    cities=parse_cities(
        """
        Scotland: Skye; Lerwick; Oban
        Malta: Valletta; Gozo
        Iceland: Reykjavik; Akureyri
        Jamaica: Kingston; Port Royal
        Greece: Rhodes; Corfu
        Denmark: Esbjerg; Aarhus
        Chile: Valparaiso; Iquique
        """
    ),
    venues=concepts(
        "harbour/port; lighthouse; shipyard/dockyard; tavern/alehouse; fish market; quay/wharf; chapel; customs house"
    ),
    things=parse_things(
        """
        boats: rowing boats/rowboats; canoes; rafts; dinghies; yachts/sailing yachts
        fish: herrings; mackerels; eels; codfish; salmon
        containers: barrels/casks; crates; sacks/bags; chests/trunks
        weapons: cannons; muskets/rifles; swords/cutlasses; harpoons
        fabrics: sails; flags/ensigns; blankets; nets/fishing nets
        """
    ),
    transfers=parse_transfers(
        """
        trade,traded,traded; barter,bartered,bartered | to | obtain,obtained,obtained | from
        cede,ceded,ceded; surrender,surrendered,surrendered | to | capture,captured,captured | from
        bequeath,bequeathed,bequeathed; leave,left,left | to | inherit,inherited,inherited | from
        ferry,ferried,ferried; carry,carried,carried | to | |
        smuggle,smuggled,smuggled; sneak,sneaked,sneaked | to | |
        throw,threw,thrown; toss,tossed,tossed | to | |
        """
    ),
    encounters=parse_encounters(
        """
        greet,greeted,greeted; welcome,welcomed,welcomed
        betray,betrayed,betrayed; deceive,deceived,deceived
        arrest,arrested,arrested; detain,detained,detained
        feed,fed,fed; nourish,nourished,nourished
        challenge,challenged,challenged; dare,dared,dared
        chase,chased,chased; pursue,pursued,pursued
        forgive,forgave,forgiven; pardon,pardoned,pardoned
        nurse,nursed,nursed; tend,tended,tended
        """
    ),
    times=parse_times("Boxing Day; New Year's Day; Good Friday; Easter Sunday; Midsummer Day", "spring; autumn"),
    reasons=concepts(
        "while the tide was turning/as the tide turned; "
        "once the mutiny was over/after the mutiny ended; "
        "because the hull was leaking/since water was coming in; "
        "for fear of pirates/out of fear of pirates; "
        "as the fog was lifting/while the mist was clearing; "
        "in return for safe passage/in exchange for a safe crossing"
    ),
    manners=concepts(
        "with a loud laugh/with loud laughter; under cover of darkness/in the dark; without a word/silently; "
        "with tears in both eyes/tearfully; much too late/far too late; against orders"
    ),
    sources=concepts("the ship's log/the logbook; the old cook; the harbour gossip; the crew/the sailors"),
)
